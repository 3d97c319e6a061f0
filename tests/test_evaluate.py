"""Scoring a data set: counts, processes, interruptions, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from segkit.inference import evaluate, predict, prepare, protocol
from segkit.metrics import ConfusionMatrix, scores
from segkit.types import Logits, Sample

K = 5


class ByColour(nn.Module):
    """Guesses the class from the colour of a pixel and its neighbours."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.num_classes = K
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, K, 1)
        )
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5), persistent=False)
        self.register_buffer("std", torch.full((3, 1, 1), 0.25), persistent=False)

    def normalise(self, image):
        return (image.float() / 255 - self.mean) / self.std

    def forward(self, image):
        return Logits(self.body(image))


class Noise:
    """Pictures of different sizes, drawn from their index."""

    def __init__(self, length=7):
        self.length, self.table = length, None

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


def test_an_evaluation_counts_every_picture_once():
    model, dataset = ByColour().eval(), Noise()
    matrix = ConfusionMatrix(K)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        matrix.update(sample.label, predict(model, sample.image, protocol()))
    seen = []
    found = evaluate(
        model, dataset, protocol(), on_image=lambda sample, ids: seen.append((sample.name, ids.shape))
    )
    assert torch.equal(found.counts, matrix.counts)
    assert found.scores == scores(matrix.counts)
    assert seen == [(str(i), dataset.read(i).label.shape) for i in range(7)]
    assert found.protocol.name == "whole"


def test_reading_in_other_processes_changes_nothing():
    model = ByColour()
    assert torch.equal(
        evaluate(model, Noise(3), protocol()).counts, evaluate(model, Noise(3), protocol(), workers=2).counts
    )


def test_an_evaluation_leaves_the_model_as_it_was():
    model = ByColour().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, Noise(2), protocol(precision="bf16"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match=r"the data set is empty: check data\.root"):
        evaluate(ByColour(), Noise(0), protocol())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 32, "stride": 33}, "evaluation.window=32 is smaller than evaluation.stride=33"),
        ({"window": [32, 64], "stride": 48}, "is smaller than evaluation.stride=48"),
        (
            {"scales": [1.0, 0.0]},
            "evaluation.scales=.1.0, 0.0.: give at least one scale, all of them above 0",
        ),
        ({"scales": []}, "give at least one scale"),
        ({"resize": "long_side"}, "needs evaluation.base_size"),
        ({"stride": 8}, "without evaluation.window"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        protocol(**settings)


def test_broken_weights_are_noticed():
    model = ByColour()
    model.body[3].bias.data[1] = torch.nan
    with pytest.raises(ValueError, match="returned NaN or infinity: its weights are broken"):
        evaluate(model, Noise(), protocol())


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"give an RGB picture as an \(H, W, 3\) array"):
        predict(prepare(ByColour()), image, protocol())


def test_a_protocol_says_what_it_is():
    how = protocol(
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
        "encoding (scales 0.5 1 of long side 520, flip, window 480x480 every 320x320, pad at the border, "
        "merge exp, absent classes: zero, float32)"
    )
    assert how.stated()["stride"] == (320, 320)
