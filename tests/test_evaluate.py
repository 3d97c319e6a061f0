"""Evaluation of a data set: counts, processes, interruptions and errors."""

from __future__ import annotations

import functools
import os
import shutil
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
from segkit.evaluation import StopEvaluation, evaluate, metrics
from segkit.evaluation.metrics import ConfusionMatrix
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


def score(dataset=None, protocol=Protocol(), **options):  # noqa: B008 - is not changed
    return evaluate(ByColor(), Noise() if dataset is None else dataset, protocol, **options)


def count_by_hand(indices=range(7)):
    model, matrix = ByColor().eval(), ConfusionMatrix(K)
    for index in indices:
        sample = Noise().read(index)
        matrix.update(sample.label, predict(model, sample.image, Protocol()))
    return matrix.counts


def test_evaluation_counts_every_image_once():
    seen = []
    found = score(on_image=lambda sample, ids: seen.append((sample.name, ids.shape)))
    assert torch.equal(found.counts, count_by_hand())
    pixels = metrics.count_pixels(found.counts)
    assert found.scores.items() >= metrics.score_pixels(pixels, absent="zero").items()
    assert (found.image_counts.sum(0)[:, :K] == pixels).all()
    assert seen == [(str(i), Noise().read(i).label.shape) for i in range(7)]
    assert found.protocol.name == "whole"


def test_evaluation_does_not_change_the_model():
    model = ByColor().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, Noise(2), Protocol(precision="bf16"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_empty_data_set_is_rejected():
    with pytest.raises(ValueError, match=r"the data set is empty: check data\.root"):
        score(Noise(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 32, "stride": 33}, "evaluation.stride=33: must be at most evaluation.window=32"),
        ({"scales": [1.0, 0.0]}, "evaluation.scales=.1.0, 0.0.: give at least one scale, all above 0"),
        ({"resize": "long_side"}, "needs evaluation.base_size"),
        ({"stride": 8}, "needs evaluation.window"),
        ({"resize": "bounds"}, r"evaluation.resize=bounds needs evaluation.bounds, such as \[2048"),
    ],
)
def test_contradictory_protocol_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
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
        score(dataset)


def test_category_and_boundary_scores():
    found = score(protocol=Protocol(evaluators={"boundary": True}))
    warm = found.counts[:2, :2].sum()
    assert found.category_iou["warm"] == pytest.approx(
        float(warm / (found.counts[:2].sum() + found.counts[:, :2].sum() - warm))
    )
    assert found.scores["mIoU_category"] == pytest.approx(np.mean(list(found.category_iou.values())))
    assert found.scores["mIoU_boundary"] == pytest.approx(np.mean(found.classes["boundary IoU"]))
    assert "mIoU_boundary" not in score().scores


def test_ade20k_score_is_reported_for_ade20k_only():
    dataset = Noise(3)
    assert "ADE20K" not in score(dataset).scores
    dataset.table.name = "ade20k"
    found = score(dataset).scores
    assert found["ADE20K"] == (found["pixAcc"] + found["mIoU"]) / 2


class Damaged(Noise):
    """Some images cannot be read."""

    def __init__(self, damaged, on_error):
        super().__init__()
        self.damaged, self.on_error = damaged, on_error

    def read(self, index):
        if index in self.damaged:
            raise DataError("damaged", f"{index}.png", "not an image", "copy it again")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_or_stop(workers, caplog):
    found = score(Damaged((1, 4), "skip"), workers=workers)
    assert torch.equal(found.counts, count_by_hand((0, 2, 3, 5, 6)))
    assert (found.images, found.skipped) == (5, 2)
    assert "skipped unreadable image: 4.png: not an image; copy it again" in caplog.text
    with pytest.raises(DataError, match=r"1\.png: not an image; copy it again"):
        score(Damaged((1, 4), "stop"), workers=workers)


def test_no_readable_image_is_rejected():
    with pytest.raises(ValueError, match="nothing to score: no image can be used"):
        score(Damaged(range(7), "skip"))


@pytest.mark.parametrize("images", [0, 2])
def test_stopped_evaluation_keeps_its_counts(images):
    def leave(sample, _):
        if sample.name == str(images):
            raise StopEvaluation

    found = score(on_image=leave)
    assert torch.equal(found.counts, count_by_hand(range(images)))
    assert (found.images, bool(found.scores)) == (images, images > 0)


class Interrupted(Noise):
    def read(self, index):
        if index == 4:
            raise KeyboardInterrupt
        return super().read(index)


@pytest.fixture
def interrupt(tmp_path):
    """Evaluate four of seven images, and return the file with their counts and how to go on."""
    parts = tmp_path / "parts"

    def run(protocol=Protocol()):  # noqa: B008 - is not changed
        with pytest.raises(KeyboardInterrupt):
            score(Interrupted(), protocol, partial=parts)
        (file,) = parts.glob("*.pt")
        return file, functools.partial(score, protocol=protocol, partial=parts, resume=True)

    return run


def assert_equal(found, expected):
    assert torch.equal(found.counts, expected.counts)
    assert (found.image_counts == expected.image_counts).all()
    assert (found.scores, found.classes) == (expected.scores, expected.classes)


def test_interrupted_evaluation_resumes(interrupt):
    protocol, seen = Protocol(evaluators={"boundary": True}), []
    file, resume = interrupt(protocol)
    found = resume(on_image=lambda sample, _: seen.append(sample.name))
    assert_equal(found, score(protocol=protocol))
    assert seen == ["4", "5", "6"]
    assert not file.parent.exists()


def test_evaluation_starts_again_without_resume_or_with_other_settings(interrupt, caplog):
    _, resume = interrupt()
    assert_equal(resume(resume=False), score())
    interrupt()
    protocol = Protocol(scales=(0.5,))
    assert_equal(resume(protocol=protocol), score(protocol=protocol))
    assert "its images are scored again (of other weights, images or settings)" in caplog.text


def damage(file, change):
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: torch.save(torch.ones(1), file),
        lambda file: shutil.copy(file, file.with_name("00000009.pt")),
        lambda file: damage(file, lambda part: part["counts"].pop("state of confusion")),
        lambda file: damage(file, lambda part: part["counts"].update({"state of confusion": torch.ones(2)})),
        lambda file: damage(file, lambda part: part["counts"]["images of confusion"].sub_(1)),
        lambda file: damage(file, lambda part: part["images"].append(99)),
        lambda file: damage(file, lambda part: part.update(images=None)),
    ],
)
def test_damaged_or_repeated_counts_are_counted_again(interrupt, caplog, change):
    file, resume = interrupt()
    change(file)
    assert_equal(resume(), score())
    assert "cannot be used, its images are scored again" in caplog.text


SHARED_OUT = """
import sys
import torch
sys.path.insert(0, sys.argv[2])
from segkit.runtime import distributed
from segkit.inference import Protocol
from test_evaluate import score
torch.set_num_threads(1)
with distributed.init_process_group("cpu"):
    found = score(protocol=Protocol(evaluators={"boundary": True}))
    values = found.counts, torch.from_numpy(found.image_counts), found.scores, dict(found.classes)
    torch.save(values, f"{sys.argv[1]}/{distributed.rank()}.pt")
"""


@pytest.mark.medium
def test_counts_do_not_depend_on_the_number_of_processes(tmp_path):
    tests = Path(__file__).parent
    script = tmp_path / "score.py"
    script.write_text(SHARED_OUT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    alone = {**os.environ, "PYTHONPATH": str(tests.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launch, script, tmp_path, tests], check=True, env=alone, capture_output=True, timeout=300
    )
    expected = score(protocol=Protocol(evaluators={"boundary": True}))
    for rank in range(3):
        counts, by_image, scores, classes = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(counts, expected.counts)
        assert (by_image.numpy() == expected.image_counts).all()
        assert (scores, classes) == (expected.scores, expected.classes)


class Shares:
    """Share of the pixels predicted as each class, and a name that the confusion matrix has as well."""

    def __init__(self, name):
        self.name, self.counts = name, torch.zeros(K, dtype=torch.float64)

    def update(self, label, prediction):
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
        own = {"shares": "most", "double": "mIoU"}
        return Shares(own[name]) if name in own else original(package, settings, **late)

    original = registry.build
    monkeypatch.setattr(registry, "build", build)


def test_enabled_evaluators_count_and_resume(register_evaluators, interrupt):
    protocol = Protocol(evaluators={"shares": True, "boundary": {}, "double": None})
    found = score(protocol=protocol)
    assert found.scores["most"] == max(found.classes["share"])
    assert sum(found.classes["share"]) == pytest.approx(1)
    assert list(found.classes) == ["IoU", "share", "boundary IoU"]
    _, resume = interrupt(protocol)
    assert_equal(resume(), found)


def test_evaluators_with_the_same_score_are_rejected(register_evaluators):
    with pytest.raises(ValueError, match=r"evaluation.evaluators.double: another evaluator already has mIoU"):
        score(protocol=Protocol(evaluators={"double": True}))


def test_partly_counted_image_is_not_saved(register_evaluators, interrupt, monkeypatch):
    protocol = Protocol(evaluators={"shares": True})
    file, resume = interrupt(protocol)
    original, calls = Shares.update, []

    def fail_at_second(self, label, prediction):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        original(self, label, prediction)

    monkeypatch.setattr(Shares, "update", fail_at_second)
    with pytest.raises(ZeroDivisionError):
        resume()
    assert [path.name for path in file.parent.glob("*.pt")] == [file.name]
    assert_equal(resume(), score(protocol=protocol))
