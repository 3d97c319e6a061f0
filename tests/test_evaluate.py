"""Evaluation of a data set: counts, processes, interruptions and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segkit.config import registry
from segkit.data.label_map import DataError
from segkit.evaluation import StopEvaluation, evaluate, partial
from segkit.evaluation.metrics import ConfusionMatrix, compute_scores
from segkit.inference import Protocol, predict, prepare
from segkit.types import EvaluatorResult, Logits, Sample

K = 5


class ByColor(nn.Module):
    """Predicts the class from the color of a pixel and its neighbors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.num_classes = K
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, K, 1)
        )
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5), persistent=False)
        self.register_buffer("std", torch.full((3, 1, 1), 0.25), persistent=False)

    def normalize(self, image):
        return (image.float() / 255 - self.mean) / self.std

    def forward(self, image):
        return Logits(self.body(image))


class Noise:
    """Random images of different sizes, seeded by their index."""

    def __init__(self, length=7):
        self.length, self.names = length, [str(index) for index in range(length)]
        self.table = SimpleNamespace(
            name="noise", num_classes=K, categories=["warm", "warm", "cold", "cold", "cold"]
        )

    def __len__(self):
        return self.length

    def read(self, index):
        generator = np.random.default_rng(index)
        height, width = generator.integers(8, 30, 2)
        label = generator.integers(0, K + 1, (height, width), dtype=np.uint8)
        return Sample(
            generator.integers(0, 256, (height, width, 3), dtype=np.uint8),
            np.where(label == K, 255, label),
            str(index),
        )


def test_evaluation_counts_every_image_once():
    model, dataset = ByColor().eval(), Noise()
    matrix = ConfusionMatrix(K)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        matrix.update(sample.label, predict(model, sample.image, Protocol()))
    seen = []
    found = evaluate(
        model, dataset, Protocol(), on_image=lambda sample, ids: seen.append((sample.name, ids.shape))
    )
    assert torch.equal(found.counts, matrix.counts)
    assert found.scores.items() >= compute_scores(matrix.counts).items()
    assert seen == [(str(i), dataset.read(i).label.shape) for i in range(7)]
    assert found.protocol.name == "whole"


def test_loader_workers_do_not_change_counts():
    model = ByColor()
    assert torch.equal(
        evaluate(model, Noise(3), Protocol()).counts, evaluate(model, Noise(3), Protocol(), workers=2).counts
    )


def test_evaluation_does_not_change_the_model():
    model = ByColor().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, Noise(2), Protocol(precision="bf16"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_empty_data_set_is_rejected():
    with pytest.raises(ValueError, match=r"the data set is empty: check data\.root"):
        evaluate(ByColor(), Noise(0), Protocol())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 32, "stride": 33}, "evaluation.stride=33: must be at most evaluation.window=32"),
        ({"window": [32, 64], "stride": 48}, "evaluation.stride=48: must be at most evaluation.window="),
        ({"scales": [1.0, 0.0]}, "evaluation.scales=.1.0, 0.0.: give at least one scale, all above 0"),
        ({"scales": []}, "give at least one scale"),
        ({"resize": "long_side"}, "needs evaluation.base_size"),
        ({"stride": 8}, "needs evaluation.window"),
        ({"resize": "bounds"}, r"evaluation.resize=bounds needs evaluation.bounds, such as \[2048"),
    ],
)
def test_contradictory_protocol_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_predict_rejects_other_shapes_and_types(image):
    with pytest.raises(ValueError, match=r"this network takes \(H, W, 3\) arrays"):
        predict(prepare(ByColor()), image, Protocol())


def test_protocol_as_text_and_dict():
    how = Protocol(
        name="encoding",
        scales=(0.5, 1.0),
        resize="long_side",
        base_size=520,
        flip=True,
        window=480,
        border="pad",
        merge="exp",
    )
    assert str(how) == (
        "encoding (scales 0.5 1 of long side 520, flip, window 480x480, stride 320x320, border pad, "
        "merge exp, absent classes: zero, float32)"
    )
    assert how.as_dict()["stride"] == (320, 320)


def test_model_with_another_number_of_classes_is_rejected():
    dataset = Noise()
    dataset.table.num_classes = 9
    with pytest.raises(ValueError, match="the model has 5 classes but noise has 9: score it on data"):
        evaluate(ByColor(), dataset, Protocol())


def test_category_and_boundary_scores():
    found = evaluate(ByColor(), Noise(), Protocol(evaluators={"boundary": True}))
    warm = found.counts[:2, :2].sum()
    assert found.category_iou["warm"] == pytest.approx(
        float(warm / (found.counts[:2].sum() + found.counts[:, :2].sum() - warm))
    )
    assert found.scores["mIoU_category"] == pytest.approx(np.mean(list(found.category_iou.values())))
    assert found.scores["mIoU_boundary"] == pytest.approx(np.mean(found.classes["boundary IoU"]))
    assert "mIoU_boundary" not in evaluate(ByColor(), Noise(), Protocol()).scores


@pytest.mark.parametrize("name", ["ade20k", "noise"])
def test_ade20k_score_is_reported_for_ade20k_only(name):
    dataset = Noise(3)
    dataset.table.name = name
    found = evaluate(ByColor(), dataset, Protocol()).scores
    mean = (found["pixAcc"] + found["mIoU"]) / 2
    assert found.get("ADE20K") == (mean if name == "ade20k" else None)


class Damaged(Noise):
    """The images 1 and 4 cannot be read."""

    on_error = "skip"

    def read(self, index):
        if index in (1, 4):
            raise DataError("damaged", f"{index}.png", "not an image", "copy it again")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_with_on_error_skip(workers, caplog):
    model, matrix = ByColor().eval(), ConfusionMatrix(K)
    for index in (0, 2, 3, 5, 6):
        sample = Noise().read(index)
        matrix.update(sample.label, predict(model, sample.image, Protocol()))
    found = evaluate(model, Damaged(), Protocol(), workers=workers)
    assert torch.equal(found.counts, matrix.counts)
    assert (found.images, found.skipped) == (5, 2)
    assert "skipped unreadable image (2 so far): 4.png: not an image; copy it again" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_with_on_error_stop(workers):
    dataset = Damaged()
    dataset.on_error = "stop"
    with pytest.raises(DataError, match=r"1\.png: not an image; copy it again"):
        evaluate(ByColor(), dataset, Protocol(), workers=workers)


def test_no_readable_image_is_rejected():
    class AllDamaged(Damaged):
        def read(self, index):
            return super().read(1)

    with pytest.raises(
        ValueError, match=r"nothing to score: none of the 7 images can be read. The last: 1\.png: not"
    ):
        evaluate(ByColor(), AllDamaged(), Protocol())


def test_stop_before_the_first_image_gives_no_scores():
    def leave(*_):
        raise StopEvaluation

    found = evaluate(ByColor(), Noise(), Protocol(evaluators={"boundary": True}), on_image=leave)
    assert (found.images, found.scores, int(found.counts.sum())) == (0, {}, 0)


def test_stopped_evaluation_keeps_its_counts():
    def leave(sample, _):
        if sample.name == "2":
            raise StopEvaluation

    found = evaluate(ByColor(), Noise(), Protocol(), on_image=leave)
    assert found.images == 2
    assert torch.equal(found.counts, evaluate(ByColor(), Noise(2), Protocol()).counts)


class Interrupted(Noise):
    def read(self, index):
        if index == 4:
            raise KeyboardInterrupt
        return super().read(index)


def interrupt_evaluation(model, parts, protocol=Protocol()):  # noqa: B008 - is not changed
    """Evaluate four of seven images, and return the file with their counts."""
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, Interrupted(), protocol, partial=parts)
    (file,) = parts.glob("*.pt")
    return file


def test_interrupted_evaluation_resumes(tmp_path):
    model, parts, protocol = ByColor(), tmp_path / "parts", Protocol(evaluators={"boundary": True})
    unbroken = evaluate(model, Noise(), protocol)
    interrupt_evaluation(model, parts, protocol)
    seen = []

    def note(sample, _):
        seen.append(sample.name)

    found = evaluate(model, Noise(), protocol, on_image=note, partial=parts, resume=True)
    assert torch.equal(found.counts, unbroken.counts)
    assert found.classes["boundary IoU"] == unbroken.classes["boundary IoU"]
    assert seen == ["4", "5", "6"]
    assert not parts.exists()


def test_without_resume_evaluation_starts_again(tmp_path):
    model = ByColor()
    interrupt_evaluation(model, tmp_path / "parts")
    found = evaluate(model, Noise(), Protocol(), partial=tmp_path / "parts")
    assert torch.equal(found.counts, evaluate(model, Noise(), Protocol()).counts)


def test_counts_of_another_evaluation_are_rejected(tmp_path):
    model = ByColor()
    interrupt_evaluation(model, tmp_path)
    with pytest.raises(ValueError, match="counts of an evaluation with other weights, images or protocol"):
        evaluate(model, Noise(), Protocol(scales=(0.5,)), partial=tmp_path, resume=True)
    model.body[3].bias.data += 0.1
    with pytest.raises(ValueError, match="counts of an evaluation with other weights, images or protocol"):
        evaluate(model, Noise(), Protocol(), partial=tmp_path, resume=True)


def reseal(change):
    """The change, under a checksum that fits it."""

    def apply(part):
        change(part)
        part["sha256"] = partial._hash_part(part)
        return part

    return apply


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["states"]["confusion"].add_(7),
        lambda part: part["images"].append(5),
        lambda part: part.pop("sha256"),
        lambda part: [part],
        reseal(lambda part: part["states"]["confusion"].sub_(10**6)),
        reseal(lambda part: part["states"].update(confusion=torch.zeros(2, 2, dtype=torch.int64))),
        reseal(lambda part: part["states"].update(confusion=part["states"]["confusion"].float())),
        reseal(lambda part: part["states"].pop("confusion")),
        reseal(lambda part: part["images"].append(1)),
        reseal(lambda part: part["images"].append(99)),
        reseal(lambda part: part["images"].append("4")),
        reseal(lambda part: part.update(images=None)),
    ],
)
def test_damaged_counts_are_counted_again(tmp_path, caplog, change):
    model, parts = ByColor(), tmp_path / "parts"
    file = interrupt_evaluation(model, parts)
    content = torch.load(file, weights_only=True)
    changed = change(content)
    torch.save(changed if isinstance(changed, dict | list) else content, file)
    found = evaluate(model, Noise(), Protocol(), partial=parts, resume=True)
    assert torch.equal(found.counts, evaluate(model, Noise(), Protocol()).counts)
    assert f"{file}: damaged, its images are scored again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", None])
def test_unreadable_or_repeated_counts_are_counted_again(tmp_path, caplog, content):
    model, parts = ByColor(), tmp_path / "parts"
    file = interrupt_evaluation(model, parts)
    (parts / "00000009.pt").write_bytes(file.read_bytes() if content is None else content)
    found = evaluate(model, Noise(), Protocol(), partial=parts, resume=True)
    assert torch.equal(found.counts, evaluate(model, Noise(), Protocol()).counts)
    assert "00000009.pt: damaged" in caplog.text


SHARED_OUT = """
import sys
import torch
sys.path.insert(0, sys.argv[2])
from segkit.runtime import distributed
from segkit.config import registry
from segkit.data.label_map import DataError
from segkit.evaluation import StopEvaluation, evaluate, partial
from segkit.inference import Protocol
from test_evaluate import ByColor, Noise
torch.set_num_threads(1)
with distributed.init_process_group("cpu"):
    found = evaluate(ByColor(), Noise(), Protocol(evaluators={"boundary": True}))
    torch.save([found.counts, found.classes["boundary IoU"]], f"{sys.argv[1]}/{distributed.rank()}.pt")
"""


@pytest.mark.medium
@pytest.mark.parametrize("processes", [1, 3])
def test_counts_do_not_depend_on_the_number_of_processes(processes, tmp_path):
    tests = Path(__file__).parent
    script = tmp_path / "score.py"
    script.write_text(SHARED_OUT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    alone = {**os.environ, "PYTHONPATH": str(tests.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launch, script, tmp_path, tests], check=True, env=alone, capture_output=True, timeout=300
    )
    expected = evaluate(ByColor(), Noise(), Protocol(evaluators={"boundary": True}))
    for rank in range(processes):
        counts, boundary = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(counts, expected.counts)
        assert boundary == expected.classes["boundary IoU"]


class Shares:
    """Share of the pixels predicted as each class, and a name that the confusion matrix has as well."""

    def __init__(self, name):
        self.name, self.counts = name, torch.zeros(K, dtype=torch.float64)

    def update(self, label, prediction):
        if len(label) == 0:
            raise ValueError("an image without rows")
        self.counts += torch.bincount(prediction.flatten().int(), minlength=K)

    def state(self):
        return self.counts

    def compute(self, state):
        return EvaluatorResult(
            {self.name: float(state.max() / state.sum())}, {"share": (state / state.sum()).tolist()}
        )


@pytest.fixture
def register_evaluators(monkeypatch):
    """Evaluators of a test's own, by name."""

    def build(package, settings, **late):
        name = settings["name"]
        own = {"shares": Shares("most"), "double": Shares("mIoU")}
        return own.get(name) or original(package, settings, **late)

    original = registry.build
    monkeypatch.setattr(registry, "build", build)


def test_enabled_evaluators_count_and_resume(register_evaluators, tmp_path):
    protocol = Protocol(evaluators={"shares": True, "boundary": {}, "double": None})
    found = evaluate(ByColor(), Noise(), protocol)
    predicted = found.counts.sum(0)  # of scored pixels; those of ignored ones are counted here as well
    assert found.scores["most"] == max(found.classes["share"])
    assert len(found.classes["share"]) == K == len(predicted)
    assert sum(found.classes["share"]) == pytest.approx(1)
    assert list(found.classes) == ["IoU", "share", "boundary IoU"]
    interrupt_evaluation(ByColor(), tmp_path / "parts", protocol)
    again = evaluate(ByColor(), Noise(), protocol, partial=tmp_path / "parts", resume=True)
    assert again.scores == found.scores
    assert again.classes["share"] == found.classes["share"]


def test_evaluators_with_the_same_score_are_rejected(register_evaluators):
    with pytest.raises(ValueError, match=r"evaluation.evaluators.double: another evaluator already has mIoU"):
        evaluate(ByColor(), Noise(2), Protocol(evaluators={"double": True}))


def test_partly_counted_image_is_not_saved(tmp_path):
    evaluators = {"a": Shares("a"), "b": Shares("b")}
    image = np.zeros((2, 2), np.uint8)
    with partial.EvaluatorCounts(evaluators, tmp_path / "p", "x", num_images=2, resume=False) as tally:
        tally.add(0, image, torch.from_numpy(image))
        tally.save()
    evaluators["b"].update = lambda *_: 1 / 0
    with (
        pytest.raises(ZeroDivisionError),
        partial.EvaluatorCounts(evaluators, tmp_path / "p", "x", num_images=2, resume=True) as tally,
    ):
        tally.add(1, image, torch.from_numpy(image))
    kept = partial.EvaluatorCounts(
        {"a": Shares("a"), "b": Shares("b")}, tmp_path / "p", "x", num_images=2, resume=True
    )
    assert kept.done == {0}
    assert {name: float(state.sum()) for name, state in kept.sum_states().items()} == {"a": 4, "b": 4}
