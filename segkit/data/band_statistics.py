"""Statistics of the stored values of images, band by band, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

PERCENTILES = (0.5, 99.5)  # as nnU-Net clips intensities (Isensee et al. 2021)
PERCENTILE_PIXELS = 1 << 22  # sampled over all images for the percentiles


class BandStatistics(NamedTuple):
    """Statistics of C bands over all pixels, each (C,)."""

    mean: np.ndarray
    std: np.ndarray
    least: np.ndarray
    most: np.ndarray
    low: np.ndarray  # percentile 0.5
    high: np.ndarray  # percentile 99.5

    def value_ranges(self, method: str) -> tuple[tuple[float, float], ...]:
        """Return ``data.range`` of each band by ``percentile`` or ``minmax``; (low, low + 1) if constant."""
        lows, highs = self.low.tolist(), self.high.tolist()
        if method == "minmax":
            lows, highs = self.least.tolist(), self.most.tolist()
        return tuple((low, high if high > low else low + 1) for low, high in zip(lows, highs, strict=True))

    def normalization(self, ranges: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Return ``model.mean`` and ``model.std``, each (C,), of the values scaled to 0..1 by their range."""
        low, high = np.array(ranges, np.float64).T
        return (self.mean - low) / (high - low), self.std / (high - low)


class BandSample(NamedTuple):
    """Values of one image."""

    moments: np.ndarray  # (5, C): number of pixels, sum, sum of squares, minimum and maximum of each band
    pixels: np.ndarray  # (P, C), evenly spaced


def sample_bands(image: np.ndarray, *, images: int) -> BandSample:
    """Return the moments of an image (H, W, C) and its share of the pixels sampled from ``images`` images."""
    groups = [np.ascontiguousarray(image[..., at : at + 4]) for at in range(0, image.shape[2], 4)]
    moments = [cv2.meanStdDev(group) for group in groups]  # at most four bands each; fast for uint8
    mean, std = (np.concatenate([part[which] for part in moments])[:, 0] for which in (0, 1))
    count = np.full(image.shape[2], image.size / image.shape[2])
    extremes = image.min((0, 1)), image.max((0, 1))
    rows = np.stack([count, mean * count, (std**2 + mean**2) * count, *extremes], dtype=np.float64)
    pixels = image.reshape(-1, image.shape[2])
    step = -(-len(pixels) // max(256, PERCENTILE_PIXELS // max(1, images)))
    return BandSample(rows, pixels[::step].copy())


def combine_samples(samples: Sequence[BandSample]) -> BandStatistics:
    """Return the statistics of all images."""
    moments = np.stack([sample.moments for sample in samples])  # (N, 5, C)
    count, total, squares = moments[:, :3].sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    low, high = np.percentile(np.concatenate([sample.pixels for sample in samples]), PERCENTILES, axis=0)
    return BandStatistics(mean, std, moments[:, 3].min(0), moments[:, 4].max(0), low, high)
