"""Statistics of a data set by class and by band, and class weights computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pairs
from segkit.data.verify import map_indices
from segkit.types import Bands, ignore_index

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

    def value_ranges(self, settings: Bands) -> tuple[tuple[float, float], ...]:
        """Return black and white of each band, as set, or (low, low + 1) if a computed range is empty."""
        if not isinstance(settings.range, str):
            return tuple(settings.value_ranges(len(self.mean)))
        lows, highs = self.low.tolist(), self.high.tolist()
        if settings.range == "minmax":
            lows, highs = self.least.tolist(), self.most.tolist()
        return tuple((low, high if high > low else low + 1) for low, high in zip(lows, highs, strict=True))

    def normalization(self, ranges: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Return ``model.mean`` and ``model.std``, each (C,), of the values scaled to 0..1 by their range."""
        low, high = np.array(ranges, np.float64).T
        return (self.mean - low) / (high - low), self.std / (high - low)


BandSample = tuple[np.ndarray, np.ndarray]  # moments (5, C) and pixels (P, C) of one image


def sample_bands(image: np.ndarray, *, images: int) -> BandSample:
    """Return the moments of an image (H, W, C) and its share of the pixels sampled from ``images`` images.

    The moments are the number of pixels, sum, sum of squares, minimum and maximum of each band.
    """
    groups = [np.ascontiguousarray(image[..., at : at + 4]) for at in range(0, image.shape[2], 4)]
    moments = [cv2.meanStdDev(group) for group in groups]  # at most four bands each; fast for uint8
    mean, std = (np.concatenate([part[which] for part in moments])[:, 0] for which in (0, 1))
    pixels = image.reshape(-1, image.shape[2])
    count = np.full(image.shape[2], len(pixels))
    extremes = image.min((0, 1)), image.max((0, 1))
    rows = np.stack([count, mean * count, (std**2 + mean**2) * count, *extremes], dtype=np.float64)
    step = -(-len(pixels) // max(256, PERCENTILE_PIXELS // max(1, images)))
    return rows, pixels[::step].copy()


def combine_samples(samples: Sequence[BandSample]) -> BandStatistics:
    """Return the statistics of all images."""
    moments = np.stack([rows for rows, _ in samples])  # (N, 5, C)
    count, total, squares = moments[:, :3].sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    low, high = np.percentile(np.concatenate([pixels for _, pixels in samples]), PERCENTILES, axis=0)
    return BandStatistics(mean, std, moments[:, 3].min(0), moments[:, 4].max(0), low, high)


class Statistics(NamedTuple):
    """Counts over one split; K classes, C bands."""

    table: LabelMap
    pixels: np.ndarray  # (K,) of each class
    ignored: int  # pixels
    images: np.ndarray  # (K,) that contain the class
    pixels_of_images: np.ndarray  # (K,) scored pixels of those images
    sizes: Counter[tuple[int, int]]  # (width, height)
    bands: BandStatistics  # of the stored values


def compute_statistics(dataset: Pairs) -> Statistics:
    """Read every image and mask once; the first that cannot be read is an error."""
    num_classes = dataset.table.num_classes
    ignored = ignore_index(num_classes)

    def count_pixels(index: int) -> tuple[tuple[int, int], np.ndarray, BandSample]:
        image, label = dataset.read(index)[:2]
        pixels = np.bincount(label.ravel(), minlength=ignored + 1)
        counts = np.append(pixels[:num_classes], pixels[ignored])
        return label.shape[::-1], counts, sample_bands(image, images=len(dataset))

    results = list(map_indices(count_pixels, dataset, "stats"))
    counts = np.stack([pixels for _, pixels, _ in results])  # (N, K + 1), ignored ones last
    class_counts = counts[:, :num_classes]
    is_present = class_counts > 0
    return Statistics(
        dataset.table,
        pixels=class_counts.sum(0),
        ignored=int(counts[:, -1].sum()),
        images=is_present.sum(0),
        pixels_of_images=(is_present * class_counts.sum(1, keepdims=True)).sum(0),
        sizes=Counter(size for size, _, _ in results),
        bands=combine_samples([bands for _, _, bands in results]),
    )


def compute_band_statistics(dataset: Pairs) -> BandStatistics:
    """Read every image once; the first that cannot be read is an error."""

    def read_bands(index: int) -> BandSample:
        return sample_bands(dataset.read_image(index), images=len(dataset))

    return combine_samples(list(map_indices(read_bands, dataset, "image values")))


def median_frequency_weights(statistics: Statistics) -> np.ndarray:
    """Return class weights (K,): the median frequency over each class's own (Eigen and Fergus 2015).

    The frequency is counted in the images that contain the class. Classes that never occur have weight 1.
    """
    is_present = statistics.pixels > 0
    frequency = statistics.pixels[is_present] / statistics.pixels_of_images[is_present]
    weights = np.ones(len(is_present))
    weights[is_present] = np.median(frequency) / frequency
    return weights


def effective_number(statistics: Statistics, *, beta: float = 0.999) -> np.ndarray:
    """Return the inverse of the effective number of images of each class (Cui et al. 2019), with mean 1.

    Images are counted, not pixels, since neighboring pixels are nearly equal. Classes that never occur have
    weight 1.
    """
    is_present = statistics.images > 0
    weights = np.ones(len(is_present))
    weights[is_present] = (1 - beta) / (1 - beta ** statistics.images[is_present])
    weights[is_present] /= weights[is_present].mean()
    return weights


WEIGHTS = {"median_frequency": median_frequency_weights, "effective_number": effective_number}
