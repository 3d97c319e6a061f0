"""What a data set holds, class by class, and the class weights that follow."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from segkit.data.band_statistics import BandAccumulator, BandStatistics
from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pairs
from segkit.data.verify import map_pairs
from segkit.types import Bands, ignore_index


class Statistics(NamedTuple):
    """Counts over one split; K classes."""

    table: LabelMap
    pixels: np.ndarray  # (K,) of each class
    ignored: int  # pixels
    images: np.ndarray  # (K,) that show the class
    pixels_of_images: np.ndarray  # (K,) scored pixels of those images
    sizes: Counter[tuple[int, int]]  # (width, height)
    bands: BandStatistics  # of the values as stored
    meant: Bands  # what they mean

    @property
    def value_ranges(self) -> list[tuple[float, float]]:
        """Black and white of each band, as the settings or the images say."""
        if isinstance(how := self.meant.range, str):
            return list(self.bands.value_ranges("minmax" if how == "minmax" else "percentile"))
        return self.meant.value_ranges(len(self.bands.mean))

    @property
    def mean(self) -> np.ndarray:
        """(C,) of the bands in 0..1 of their range, over all pixels."""
        return np.array(self.bands.normalization(self.value_ranges)[0])

    @property
    def std(self) -> np.ndarray:
        """(C,) likewise."""
        return np.array(self.bands.normalization(self.value_ranges)[1])

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        scored = int(self.pixels.sum())
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
                name: {"pixels": pixels / max(1, scored), "images": images}
                for name, pixels, images in zip(
                    self.table.names, self.pixels.tolist(), self.images.tolist(), strict=True
                )
            },
        }


def compute_statistics(dataset: Pairs) -> Statistics:
    """Read everything once.

    Raises:
        DataError: a file cannot be read; ``verify`` lists all of them.
    """
    classes = dataset.table.num_classes
    counts = np.zeros((len(dataset), classes + 1), np.int64)  # of each class, and what is ignored
    unscored = ignore_index(classes)
    values = BandAccumulator(len(dataset))
    sizes: Counter[tuple[int, int]] = Counter()
    indices = {pair: index for index, pair in enumerate(dataset.pairs)}

    def count(pair: Any) -> tuple[int, int]:
        image, label = dataset.read(index := indices[pair])[:2]
        seen = np.bincount(label.ravel(), minlength=unscored + 1)
        counts[index] = *seen[:classes], seen[unscored]
        values.add(index, image)
        return label.shape[1], label.shape[0]

    for size in map_pairs(count, dataset.pairs, "stats"):
        sizes[size] += 1
    of_class = counts[:, :classes]
    return Statistics(
        dataset.table,
        pixels=of_class.sum(0),
        ignored=int(counts[:, -1].sum()),
        images=(of_class > 0).sum(0),
        pixels_of_images=((of_class > 0) * of_class.sum(1, keepdims=True)).sum(0),
        sizes=sizes,
        bands=values.statistics(),
        meant=dataset.bands,
    )


def compute_band_statistics(dataset: Pairs) -> BandStatistics:
    """The values of the images alone, read once.

    Raises:
        DataError: an image cannot be read.
    """
    values = BandAccumulator(len(dataset))
    indices = {pair: index for index, pair in enumerate(dataset.pairs)}

    def add(pair: Any) -> None:
        values.add(indices[pair], dataset.read_image(pair))

    for _ in map_pairs(add, dataset.pairs, "values of the images"):
        pass
    return values.statistics()


def median_frequency(statistics: Statistics) -> np.ndarray:
    """Median frequency over frequency, counted in the images that show the class (Eigen and Fergus 2015).

    Returns:
        (K,); 1 for a class that never occurs.
    """
    seen = statistics.pixels > 0
    frequency = statistics.pixels[seen] / statistics.pixels_of_images[seen]
    weights = np.ones(len(seen))
    weights[seen] = np.median(frequency) / frequency
    return weights


def effective_number(statistics: Statistics, *, beta: float = 0.999) -> np.ndarray:
    """Inverse of the effective number of images of the class (Cui et al. 2019), with mean 1.

    Neighboring pixels tell the same, so images are counted.

    Returns:
        (K,); 1 for a class that never occurs.
    """
    seen = statistics.images > 0
    weights = np.ones(len(seen))
    weights[seen] = (1 - beta) / (1 - beta ** statistics.images[seen])
    weights[seen] /= weights[seen].mean()
    return weights


WEIGHTS = {"median_frequency": median_frequency, "effective_number": effective_number}
