"""What a data set holds, class by class, and the class weights that follow."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import cv2
import numpy as np

from segkit.data.labels import LabelTable
from segkit.data.pairs import Pairs
from segkit.data.verification import in_parallel
from segkit.types import IGNORE_INDEX


class Statistics(NamedTuple):
    """Counts over one split; K classes."""

    table: LabelTable
    pixels: np.ndarray  # (K,) of each class
    ignored: int  # pixels
    images: np.ndarray  # (K,) that show the class
    pixels_of_images: np.ndarray  # (K,) scored pixels of those images
    sizes: Counter[tuple[int, int]]  # (width, height)
    mean: np.ndarray  # (3,) of RGB in 0..1, over all pixels
    std: np.ndarray  # (3,)

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        scored = int(self.pixels.sum())
        return {
            "images": self.sizes.total(),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
            "mean": self.mean.round(4).tolist(),
            "std": self.std.round(4).tolist(),
            "ignored": self.ignored / max(1, scored + self.ignored),
            "classes": {
                name: {"pixels": pixels / max(1, scored), "images": images}
                for name, pixels, images in zip(
                    self.table.names, self.pixels.tolist(), self.images.tolist(), strict=True
                )
            },
        }


def measure(dataset: Pairs) -> Statistics:
    """Read everything once.

    Raises:
        DataError: a file cannot be read; ``verify`` lists all of them.
    """
    classes = dataset.table.num_classes
    counts = np.zeros((len(dataset), IGNORE_INDEX + 1), np.int64)
    moments = np.zeros((len(dataset), 3, 2))
    sizes: Counter[tuple[int, int]] = Counter()
    indices = {pair: index for index, pair in enumerate(dataset.pairs)}

    def count(pair: Any) -> tuple[int, int]:
        image, label, _ = dataset.read(index := indices[pair])
        counts[index] = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)
        mean, std = cv2.meanStdDev(image)
        moments[index] = np.concatenate([mean, std**2 + mean**2], axis=1) * label.size
        return label.shape[1], label.shape[0]

    for size in in_parallel(count, dataset.pairs, "stats"):
        sizes[size] += 1
    mean, square = moments.sum(0).T / counts.sum()
    of_class = counts[:, :classes]
    return Statistics(
        dataset.table,
        pixels=of_class.sum(0),
        ignored=int(counts[:, IGNORE_INDEX].sum()),
        images=(of_class > 0).sum(0),
        pixels_of_images=((of_class > 0) * of_class.sum(1, keepdims=True)).sum(0),
        sizes=sizes,
        mean=mean / 255,
        std=np.sqrt(square - mean**2) / 255,
    )


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

    Neighbouring pixels tell the same, so images are counted.

    Returns:
        (K,); 1 for a class that never occurs.
    """
    seen = statistics.images > 0
    weights = np.ones(len(seen))
    weights[seen] = (1 - beta) / (1 - beta ** statistics.images[seen])
    weights[seen] /= weights[seen].mean()
    return weights


WEIGHTS = {"median_frequency": median_frequency, "effective_number": effective_number}
