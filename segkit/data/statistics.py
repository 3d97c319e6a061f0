"""Statistics of a data set by class, and class weights computed from them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from segkit.data.band_statistics import BandSample, BandStatistics, combine_samples, sample_bands
from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pairs
from segkit.data.verify import map_indices
from segkit.types import Bands, ignore_index


class Statistics(NamedTuple):
    """Counts over one split; K classes, C bands."""

    table: LabelMap
    pixels: np.ndarray  # (K,) of each class
    ignored: int  # pixels
    images: np.ndarray  # (K,) that contain the class
    pixels_of_images: np.ndarray  # (K,) scored pixels of those images
    sizes: Counter[tuple[int, int]]  # (width, height)
    bands: BandStatistics  # of the stored values
    band_settings: Bands

    @property
    def value_ranges(self) -> list[tuple[float, float]]:
        """Black and white of each band, from the settings or from the images."""
        if isinstance(self.band_settings.range, str):
            return list(self.bands.value_ranges(self.band_settings.range))
        return self.band_settings.value_ranges(len(self.bands.mean))

    @property
    def mean(self) -> np.ndarray:
        """Mean (C,) of the bands over all pixels, scaled to 0..1 by their range."""
        return np.array(self.bands.normalization(self.value_ranges)[0])

    @property
    def std(self) -> np.ndarray:
        """Standard deviation (C,), scaled in the same way."""
        return np.array(self.bands.normalization(self.value_ranges)[1])

    def to_plain(self) -> dict[str, Any]:
        """Return the statistics as the content of a JSON file."""
        scored = int(self.pixels.sum())
        counts = zip(self.table.names, self.pixels.tolist(), self.images.tolist(), strict=True)
        return {
            "images": self.sizes.total(),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
            "mean": self.mean.round(4).tolist(),
            "std": self.std.round(4).tolist(),
            "range": [list(pair) for pair in self.value_ranges],
            "values": {
                "least": self.bands.least.tolist(),
                "most": self.bands.most.tolist(),
                "percentile": [list(pair) for pair in self.bands.value_ranges("percentile")],
            },
            "ignored": self.ignored / max(1, scored + self.ignored),
            "classes": {
                name: {"pixels": pixels / max(1, scored), "images": images} for name, pixels, images in counts
            },
        }


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
        band_settings=dataset.bands,
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
