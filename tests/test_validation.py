"""Validation during training: loss, best metric and sample images."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from runs import start_run
from segkit import checkpoint, evaluation, inference
from segkit.data.label_map import Entry, LabelMap
from segkit.losses import cross_entropy
from segkit.models import segmenter
from segkit.monitor.monitor import Monitor
from segkit.training import validation
from segkit.types import IGNORE_INDEX, Sample

SIZES = [(33, 49), (64, 40), (40, 64)]
BACKBONE = {"name": "resnest", "variant": "14", "width": 8}


TABLE = LabelMap("noise", tuple(Entry(k, name, (40 * k, 0, 0)) for k, name in enumerate("abc")))


class Noise:
    """Images of several sizes, with other shares of ignored pixels; records which process read each."""

    table, on_error = TABLE, "stop"

    def __init__(self, log=None):
        self.names, self.log = [str(index) for index in range(len(SIZES))], log

    def __len__(self):
        return len(SIZES)

    def read(self, index):
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()}\n")
        draw = np.random.default_rng(index)
        label = draw.integers(0, 3, SIZES[index], dtype=np.uint8)
        label[: 10 * index] = IGNORE_INDEX
        return Sample(draw.integers(0, 256, (*SIZES[index], 3), dtype=np.uint8), label, str(index))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    head = {"name": "fcn"}
    return segmenter.build(3, backbone=BACKBONE, head=head, auxiliary=head).eval()


def mean_nll(model, log_probabilities):
    """A naive loop: the negative log-likelihood summed over all scored pixels of all images."""
    total = count = 0.0
    for index in range(len(SIZES)):
        sample = Noise().read(index)
        label = torch.from_numpy(sample.label).long()[None]
        predicted = log_probabilities(model, sample.image)
        total += float(F.nll_loss(predicted, label, ignore_index=IGNORE_INDEX, reduction="sum"))
        count += float((label != IGNORE_INDEX).sum())
    return total / count


def log_probabilities_of(model, image):
    with torch.no_grad():
        return model(torch.from_numpy(image).permute(2, 0, 1)[None]).main.log_softmax(1)


def validation_loss(model, protocol):
    loss = validation.ValidationLoss(cross_entropy.build(3, aux_weight=0.4), protocol)
    evaluation.evaluate(model, Noise(), protocol, on_strip=loss.add, progress=False)
    return loss.mean()


@pytest.mark.medium
@pytest.mark.parametrize("piece", [1, 9000, 2**28], ids=["rows", "pieces", "images"])
def test_loss_is_the_mean_over_scored_pixels_of_all_images(piece, model, monkeypatch):
    monkeypatch.setattr(validation, "PIECE_BYTES", piece)
    found = validation_loss(model, inference.Protocol())
    assert found == {"main": pytest.approx(mean_nll(model, log_probabilities_of), rel=1e-4)}


@pytest.mark.medium
@pytest.mark.parametrize("merge", ["softmax", "logits"])
def test_loss_of_several_views_uses_merged_probabilities(merge, model):
    protocol = inference.Protocol(scales=(0.75, 1.25), flip=True, window=32, stride=20, merge=merge)

    def predict_log(model, image):
        return inference.predict_probabilities(model, image, protocol).log()[None]

    assert validation_loss(model, protocol)["main"] == pytest.approx(mean_nll(model, predict_log), rel=1e-4)


@pytest.fixture
def validate(tmp_path):
    """Validate a run on a data set and write to ``tmp_path / "run"``."""
    folder = tmp_path / "run"
    checkpoints = checkpoint.Checkpoints(
        folder, checkpoint.CheckpointConfig(), {"settings": {}, "classes": {}}
    )
    about = {"names": TABLE.names, "colors": TABLE.colors}
    with Monitor(folder, total=1, iterations_per_epoch=1, **about) as monitor:
        common = {"monitor": monitor, "checkpoints": checkpoints}
        yield lambda run, data, **how: validation.validate(run, data, inference.Protocol(), **common, **how)


class Dice(torch.nn.Module):
    """A loss whose only part has another name."""

    def forward(self, logits, label):
        right = logits.main.softmax(1).gather(1, label.long().clamp(max=2)[:, None])
        return {"dice": 1 - right.mean()}

    def compute_weight(self, label):
        return torch.tensor(float(label.numel()), dtype=torch.float64)


@pytest.mark.medium
def test_validation_reads_images_in_workers(model, tmp_path, validate):
    run, log = start_run(model, Dice(), samples=3), tmp_path / "log"
    validate(run, Noise(log), workers=1)
    readers = log.read_text().split()
    assert len(readers) == len(SIZES), "each image is read once, also those that are drawn"
    assert str(os.getpid()) not in readers
    assert (tmp_path / "run" / "samples.png").stat().st_size > 100
    assert not run.validation_pending


@pytest.mark.medium
def test_undefined_metric_is_reported_and_never_best(model, tmp_path, validate, monkeypatch):
    run, folder = start_run(model, samples=3), tmp_path / "run"
    run.metric = "iou/b"
    iou = iter([float("nan"), 0.25, float("nan"), 0.5])
    monkeypatch.setattr(validation.best_metric, "metric_value", lambda *_: next(iou))
    found = []
    for _ in range(4):
        validate(run, Noise())
        found.append((run.best, (folder / "best.pt").exists()))
    assert found == [(None, False), (0.25, True), (0.25, True), (0.5, True)]
    assert (folder / "train.log").read_text().count("checkpoint.metric=iou/b is nan") == 1


def test_drawn_samples_are_subsampled():
    shown = validation.DrawnSamples(["a"])
    image = np.zeros((2000, 3000, 3), np.uint8)
    shown.add(Sample(image, image[..., 0], "a"), image[..., 0])
    (sample,), (prediction,) = shown.gather()
    assert sample.image.shape == (500, 750, 3)
    assert sample.label.shape == prediction.shape == (500, 750)
