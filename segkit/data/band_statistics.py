"""What the values of images are, band by band: means, deviations, extremes and percentiles, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

PERCENTILES = (0.5, 99.5)  # as nnU-Net cuts intensities (Isensee et al. 2021)
GRID = 1 << 22  # pixels from which the percentiles are found, on a grid over all images


class BandStatistics(NamedTuple):
    """Values as stored, of C bands over all pixels."""

    mean: np.ndarray  # (C,)
    std: np.ndarray  # (C,)
    least: np.ndarray  # (C,)
    most: np.ndarray  # (C,)
    low: np.ndarray  # (C,) percentile 0.5
    high: np.ndarray  # (C,) percentile 99.5

    def value_ranges(self, how: Literal["percentile", "minmax"]) -> tuple[tuple[float, float], ...]:
        """``data.range`` of each band; a band of one value gets a range of 1."""
        low, high = (self.low, self.high) if how == "percentile" else (self.least, self.most)
        pairs = zip(low.tolist(), high.tolist(), strict=True)
        return tuple((first, last if last > first else first + 1) for first, last in pairs)

    def normalization(self, limits: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """``model.mean`` and ``model.std`` (C,): of the values as shares of their range."""
        low, high = np.array(limits, np.float64).T
        std = self.std / (high - low)
        return (self.mean - low) / (high - low), std


class BandAccumulator:
    """Takes images one after another, in any order.

    Args:
        images: how many will come, so that each knows its share of the grid.
    """

    def __init__(self, images: int) -> None:
        self.pixels = max(256, GRID // max(1, images))
        self.parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, index: int, image: np.ndarray) -> None:
        """Take one image (H, W, C); safe from several threads for different indices."""
        flat = image.reshape(-1, image.shape[2])
        self.parts[index] = _band_moments(image), flat[:: -(-len(flat) // self.pixels)].copy()

    def statistics(self) -> BandStatistics:
        """The statistics of what was taken."""
        order = sorted(self.parts)  # one order, one rounding
        moments = np.stack([self.parts[index][0] for index in order])  # (N, 5, C)
        count, total, squares = moments[:, :3].sum(0)
        mean = total / count
        grid = np.concatenate([self.parts[index][1] for index in order])
        low, high = np.percentile(grid, PERCENTILES, axis=0)
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return BandStatistics(mean, std, moments[:, 3].min(0), moments[:, 4].max(0), low, high)


def _band_moments(image: np.ndarray) -> np.ndarray:
    """(5, C): pixels, sum, sum of squares, least and most of each band."""
    groups = [np.ascontiguousarray(image[..., at : at + 4]) for at in range(0, image.shape[2], 4)]
    found = [cv2.meanStdDev(group) for group in groups]  # of at most four bands, fast for bytes
    mean, std = (np.concatenate([part[which] for part in found])[:, 0] for which in (0, 1))
    count = np.full(image.shape[2], image.size / image.shape[2])
    extremes = image.min((0, 1)), image.max((0, 1))
    return np.stack([count, mean * count, (std**2 + mean**2) * count, *extremes], dtype=np.float64)
