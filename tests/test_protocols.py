"""Evaluation protocols against plain transcriptions of their definitions, in float64."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkit.inference import Protocol, predict
from segkit.inference.sliding import iterate_strips
from segkit.types import Logits

inference = importlib.import_module("segkit.inference.sliding")  # the module behind the function of its name
K = 4
TINY = 1e-9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads only wait for each other on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TinySegmenter(nn.Module):
    """Logits for each 4x4 pixels, with global pooling as in an ASPP."""

    def __init__(self, seed=0, align_corners=True, stride=4):
        super().__init__()
        torch.manual_seed(seed)
        self.num_classes, self.align_corners = K, align_corners
        self.backbone = nn.Conv2d(3, 5, 5, stride=stride, padding=2)
        self.head = TinyHead()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def normalize(self, image):
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, image):
        if image.dtype == torch.uint8:
            image = self.normalize(image)
        logits = self.head(self.backbone(image))
        return Logits(
            F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=self.align_corners), None
        )


class TinyHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.score = nn.Conv2d(5, 5, 1), nn.Conv2d(5, K, 3, padding=1)

    def forward(self, features):
        around = self.pool(features.mean((2, 3), keepdim=True))
        return self.score(torch.tanh(features + around))


class FullSize(nn.Module):
    """The same network without the attributes ``backbone`` and ``head``."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.num_classes, self.normalize = inner, K, inner.normalize

    def forward(self, image):
        return self.inner(image)


def random_image(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalize_image(model, image):
    return model.normalize(torch.from_numpy(image).permute(2, 0, 1)[None])


def resize(x, height, width, align_corners):
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)


def score_like_encoding(model, image, scales, base_size, crop, flip):
    """Return scores (K, H, W) by the procedure of PyTorch-Encoding, one window and one flip at a time."""
    x = normalize_image(model, image)
    height, width = image.shape[:2]
    black = (-model.mean / model.std)[None]

    def pad_to_size(y, size_h, size_w):
        out = black.expand(1, 3, max(size_h, y.shape[2]), max(size_w, y.shape[3])).clone()
        out[:, :, : y.shape[2], : y.shape[3]] = y
        return out

    def run(y):
        logits = model(y).main
        if flip:
            logits = logits + model(y.flip(3)).main.flip(3)
        return logits.exp()

    scores = 0
    for scale in scales:
        long = math.ceil(base_size * scale)
        if height > width:
            h, w = long, int(width * long / height + 0.5)
        else:
            h, w = int(height * long / width + 0.5), long
        y = resize(x, h, w, True)
        if long <= crop:
            out = run(pad_to_size(y, crop, crop))[:, :, :h, :w]
        else:
            y = pad_to_size(y, crop, crop) if min(h, w) < crop else y
            stride = int(crop * 2 / 3)
            ph, pw = y.shape[2:]
            out, count = torch.zeros(1, K, ph, pw, dtype=x.dtype), torch.zeros(1, 1, ph, pw, dtype=x.dtype)
            for i in range(math.ceil((ph - crop) / stride) + 1):
                for j in range(math.ceil((pw - crop) / stride) + 1):
                    top, left = i * stride, j * stride
                    bottom, right = min(top + crop, ph), min(left + crop, pw)
                    part = run(pad_to_size(y[:, :, top:bottom, left:right], crop, crop))
                    out[:, :, top:bottom, left:right] += part[:, :, : bottom - top, : right - left]
                    count[:, :, top:bottom, left:right] += 1
            assert count.min() >= 1
            out = (out / count)[:, :, :h, :w]
        scores = scores + resize(out, height, width, True)
    return scores[0]


def score_image(model, image, how):
    """Return the scores (K, H, W) of all strips."""
    parts = [strip.scores for strip in iterate_strips(model, torch.from_numpy(image).permute(2, 0, 1), how)]
    return torch.cat(parts).permute(2, 0, 1)


SIZES = [
    (48, 64),  # landscape
    (64, 48),  # portrait
    (61, 61),  # square and odd
    (37, 83),
    (95, 41),
    (13, 90),  # the short side is smaller than the window
    (90, 11),
    (7, 9),  # all of it is
    (1, 5),
    (33, 2),
]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("size", "crop"), [*((size, 24) for size in SIZES), *(((43, 31), crop) for crop in (7, 16, 25, 48, 60))]
)
def test_encoding_equals_the_published_procedure(size, crop, flip):
    model, image = TinySegmenter().double().eval(), random_image(*size)
    how = Protocol(
        name="encoding",
        scales=list(SCALES),
        resize="long_side",
        base_size=52,
        flip=flip,
        window=crop,
        border="pad",
        merge="exp",
    )
    with torch.no_grad():
        expected = score_like_encoding(model, image, SCALES, 52, crop, flip)
    found = score_image(model, image, how)
    torch.testing.assert_close(found, expected, rtol=TINY, atol=TINY)
    assert torch.equal(predict(model, image, how).long(), found.argmax(0))


@pytest.mark.parametrize("merge", ["softmax", "logits", "exp"])
def test_model_without_backbone_gives_equal_scores(merge):
    model, image = TinySegmenter().double().eval(), random_image(50, 37)
    how = Protocol(scales=[0.8, 1.3], flip=True, window=[20, 28], stride=[11, 28], merge=merge)
    torch.testing.assert_close(
        score_image(FullSize(model), image, how), score_image(model, image, how), rtol=TINY, atol=TINY
    )


def test_tall_image_keeps_only_tiles_of_one_strip():
    model, image = TinySegmenter().eval(), random_image(400, 40)
    how = Protocol(window=20, stride=20, batch_pixels=1)
    tiles = inference._SlidingWindow(model, torch.from_numpy(image).permute(2, 0, 1), how)
    alive = []
    with torch.inference_mode():
        for top in range(0, 400, 5):
            tiles.score_rows(top, top + 5)
            alive.append(len(tiles.tile_logits))
    assert max(alive) <= 2, "one row of tiles, two abreast"
    assert not tiles.pending_tiles
