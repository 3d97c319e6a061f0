"""Statistics of a data set by class, and class weights computed from them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from segkit.data.band_statistics import BandAccumulator, BandStatistics
from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pair, Pairs
from segkit.data.verify import map_pairs
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
        if self.band_settings.range == "minmax":
            return list(self.bands.value_ranges("minmax"))
        if self.band_settings.range == "percentile":
            return list(self.bands.value_ranges("percentile"))
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
    """Read every image and mask once.

    Raises:
        DataError: a file cannot be read; ``verify`` lists all of them.
    """
    num_classes = dataset.table.num_classes
    ignored = ignore_index(num_classes)
    counts = np.zeros((len(dataset), num_classes + 1), np.int64)  # pixels of each class, and ignored ones
    values = BandAccumulator(len(dataset))
    indices = {pair: index for index, pair in enumerate(dataset.pairs)}

    def count_pixels(pair: Pair) -> tuple[int, int]:
        index = indices[pair]
        image, label = dataset.read(index)[:2]
        pixels = np.bincount(label.ravel(), minlength=ignored + 1)
        counts[index] = *pixels[:num_classes], pixels[ignored]
        values.add(index, image)
        return label.shape[1], label.shape[0]

    sizes = Counter(map_pairs(count_pixels, dataset.pairs, "stats"))
    class_counts = counts[:, :num_classes]
    is_present = class_counts > 0
    return Statistics(
        dataset.table,
        pixels=class_counts.sum(0),
        ignored=int(counts[:, -1].sum()),
        images=is_present.sum(0),
        pixels_of_images=(is_present * class_counts.sum(1, keepdims=True)).sum(0),
        sizes=sizes,
        bands=values.statistics(),
        band_settings=dataset.bands,
    )


def compute_band_statistics(dataset: Pairs) -> BandStatistics:
    """Read every image once.

    Raises:
        DataError: an image cannot be read.
    """
    values = BandAccumulator(len(dataset))
    indices = {pair: index for index, pair in enumerate(dataset.pairs)}
    for _ in map_pairs(
        lambda pair: values.add(indices[pair], dataset.read_image(pair)), dataset.pairs, "image values"
    ):
        pass
    return values.statistics()


def median_frequency_weights(statistics: Statistics) -> np.ndarray:
    """Return class weights (K,): the median frequency over each class's own (Eigen and Fergus 2015).

    The frequency is counted in the images that contain the class.

    Returns:
        (K,); 1 for a class that never occurs.
    """
    is_present = statistics.pixels > 0
    frequency = statistics.pixels[is_present] / statistics.pixels_of_images[is_present]
    weights = np.ones(len(is_present))
    weights[is_present] = np.median(frequency) / frequency
    return weights


def effective_number(statistics: Statistics, *, beta: float = 0.999) -> np.ndarray:
    """Return the inverse of the effective number of images of each class (Cui et al. 2019), with mean 1.

    Images are counted, not pixels, since neighboring pixels are nearly equal.

    Returns:
        (K,); 1 for a class that never occurs.
    """
    is_present = statistics.images > 0
    weights = np.ones(len(is_present))
    weights[is_present] = (1 - beta) / (1 - beta ** statistics.images[is_present])
    weights[is_present] /= weights[is_present].mean()
    return weights


WEIGHTS = {"median_frequency": median_frequency_weights, "effective_number": effective_number}
