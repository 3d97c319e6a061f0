"""Components of segkit pass ``segkit.testing``, and broken ones do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from segkit import testing
from segkit.config import registry
from segkit.data.label_map import Entry, LabelMap
from segkit.types import EvaluatorResult


@pytest.mark.medium
@pytest.mark.parametrize(("name", "variant"), [("resnest", "14"), ("resnet", "se_50")])
def test_backbone_passes_its_check(name, variant):  # timm's: tests/test_timm.py
    def make(stride):
        settings = {"name": name, "variant": variant, "width": 8, "output_stride": stride}
        return registry.build("models.backbones", settings)

    testing.check_backbone(make)


@pytest.mark.medium
@pytest.mark.parametrize("name", registry.available("models.heads"))
def test_head_passes_its_check(name):
    testing.check_head(lambda **late: registry.build("models.heads", {"name": name, "width": 8}, **late))


@pytest.mark.parametrize("name", [n for n in registry.available("losses") if n != "mixed"])
@pytest.mark.parametrize("num_classes", [4, 300])
def test_loss_passes_its_check(name, num_classes):
    make = lambda k: registry.build("losses", {"name": name}, num_classes=k)  # noqa: E731
    testing.check_loss(make, num_classes=num_classes)


def test_data_set_passes_its_check():
    settings = {"name": "shapes", "size": 32, "val_scenes": 4}
    testing.check_dataset(registry.build("data.datasets", settings, split="val"), most=2)


@pytest.mark.parametrize("name", registry.available("evaluation.evaluators"))
@pytest.mark.parametrize("num_classes", [11, 300])
def test_evaluator_passes_its_check(name, num_classes):
    entries = tuple(Entry(k, f"class {k}", (0, 0, 0), category=f"of {k % 7}") for k in range(num_classes))
    table = LabelMap("some", entries)
    late = {"table": table, "absent": "zero", "device": "cpu"}
    make = lambda: registry.build("evaluation.evaluators", {"name": name}, **late)  # noqa: E731
    testing.check_evaluator(make, num_classes=num_classes)


class Stages(nn.Module):
    """A backbone with a chosen fault."""

    def __init__(self, stride, fault):
        super().__init__()
        self.out_channels, self.output_stride, self.fault = [4, 4, 4, 4], stride, fault
        steps = {8: (4, 2, 1, 1), 16: (4, 2, 2, 1), 32: (4, 2, 2, 2)}[8 if fault == "stride" else stride]
        self.parts = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 5, s, 2) for i, s in enumerate(steps))
        self.unused = nn.Linear(1, 1) if fault == "unused" else None
        self.depends = nn.Linear(stride, 1) if fault == "weights" else None

    def forward(self, image):
        if self.fault == "values" and image.device.type == "meta":
            image = image * image.sum().item()
        stages = []
        for part in self.parts:
            image = part(image[..., : image.shape[3] // 4 * 4] if self.fault == "floor" else image)
            stages.append(image)
        if self.depends is not None:
            stages[-1] = stages[-1] + self.depends(image.new_ones(self.output_stride)).sum()
        return stages[:3] if self.fault == "three" else stages


FAULTS = {
    "three": "3 stages instead of four",
    "stride": "the last stage has stride 8, but output_stride is 16",
    "floor": "rounded up",
    "unused": "no gradient reaches unused",
    "weights": "its weights depend on the output stride",
    "values": "it needs values on meta tensors",
}


def test_correct_backbone_passes():
    testing.check_backbone(lambda stride: Stages(stride, None))


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_backbone_fails_with_the_fault(fault):
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        testing.check_backbone(lambda stride: Stages(stride, fault))


class Lowest:
    """A minimum, whose states do not add up."""

    def __init__(self):
        self.lowest = torch.zeros(1, dtype=torch.float64)

    def update(self, label, prediction):
        self.lowest = torch.minimum(self.lowest, -prediction.double().mean())

    def state(self):
        return self.lowest

    def compute(self, state):
        return EvaluatorResult({"lowest": float(state)})


def test_evaluator_whose_states_do_not_add_up_fails():
    with pytest.raises(AssertionError, match="do not add up"):
        testing.check_evaluator(Lowest)


def noisy(sample, draw):
    return sample._replace(image=np.random.default_rng().integers(0, 256, sample.image.shape, np.uint8))


def test_augmentation_with_its_own_randomness_fails():
    with pytest.raises(AssertionError, match="equal generators give other results"):
        testing.check_augmentation(noisy)


@pytest.mark.parametrize("name", ["jsonl", "tensorboard"])  # trackers: tests/test_trackers.py
def test_writer_passes_its_check(name, tmp_path):
    def make(folder, start):
        late = {"folder": folder, "start": start, "validation_pending": False}
        return registry.build("monitor.writers", {"name": name}, **late)

    testing.check_writer(make, tmp_path)


def test_jsonl_writer_continues_at_the_resumed_iteration(tmp_path):
    def lines(start, *, pending):
        late = {"folder": tmp_path, "start": start, "validation_pending": pending}
        writer = registry.build("monitor.writers", {"name": "jsonl"}, **late)
        for iteration in range(start + 1, start + 4):
            writer.add_scalars(iteration, {"train/loss": float(iteration)})
            writer.add_scalars(iteration, {"val/mIoU": float("nan")})
        writer.close()
        return [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]

    assert [line["iteration"] for line in lines(0, pending=False)] == [1, 1, 2, 2, 3, 3]
    with (tmp_path / "curves.jsonl").open("a") as file:
        file.write('{"iteration": 1, "tr')  # a process that was killed
    assert [line["iteration"] for line in lines(2, pending=True)] == [1, 1, 2, 3, 3, 4, 4, 5, 5]
    assert [line["iteration"] for line in lines(2, pending=False)] == [1, 1, 2, 3, 3, 4, 4, 5, 5]
    assert json.loads((tmp_path / "curves.jsonl").read_text().splitlines()[1]) == {
        "iteration": 1,
        "val/mIoU": None,
    }
