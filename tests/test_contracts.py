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


def test_broken_backbones_fail_with_their_faults():
    testing.check_backbone(lambda stride: Stages(stride, None))
    for fault, message in FAULTS.items():
        with pytest.raises(AssertionError, match=message):
            testing.check_backbone(lambda stride, fault=fault: Stages(stride, fault))


class Lowest:
    """A minimum, whose states do not add up."""

    lowest = torch.zeros(1, dtype=torch.float64)

    def update(self, label, prediction):
        self.lowest = torch.minimum(self.lowest, -prediction.double().mean())

    def state(self):
        return self.lowest

    def compute(self, state):
        return EvaluatorResult({"lowest": float(state)})


def test_evaluator_whose_states_do_not_add_up_fails():
    with pytest.raises(AssertionError, match="do not add up"):
        testing.check_evaluator(Lowest)


def add_noise(sample, draw):
    return sample._replace(image=np.random.default_rng().integers(0, 256, sample.image.shape, np.uint8))


def test_augmentation_with_its_own_randomness_fails():
    with pytest.raises(AssertionError, match="equal generators give other results"):
        testing.check_augmentation(add_noise)


def build_writer(name, folder, start, *, pending=False):
    supplied = {"folder": folder, "start": start, "validation_pending": pending}
    return registry.build("monitor.writers", {"name": name}, **supplied)


@pytest.mark.parametrize("name", ["jsonl", "tensorboard"])  # trackers: tests/test_trackers.py
def test_writer_passes_its_check(name, tmp_path):
    testing.check_writer(lambda folder, start: build_writer(name, folder, start), tmp_path)


def test_jsonl_writer_continues_at_the_resumed_iteration(tmp_path):
    def write(start, *, pending):
        writer = build_writer("jsonl", tmp_path, start, pending=pending)
        for iteration in range(start + 1, start + 4):
            writer.add_scalars(iteration, {"train/loss": float(iteration)})
            writer.add_scalars(iteration, {"val/mIoU": float("nan")})
        writer.close()
        return [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]

    lines = write(0, pending=False)
    assert [line["iteration"] for line in lines] == [1, 1, 2, 2, 3, 3]
    assert lines[1] == {"iteration": 1, "val/mIoU": None}
    with (tmp_path / "curves.jsonl").open("a") as file:
        file.write('{"iteration": 1, "tr')  # a process that was killed
    for pending in (True, False):
        iterations = [line["iteration"] for line in write(2, pending=pending)]
        assert iterations == [1, 1, 2, 3, 3, 4, 4, 5, 5]
