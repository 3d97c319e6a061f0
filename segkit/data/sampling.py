"""Repeat factor sampling: images with rare classes are drawn more often (LVIS, arXiv 1908.03195).

A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)), and an image has the largest
factor of its classes. In LVIS the factors lengthen an epoch. Here an epoch keeps its number of samples, and
has each image in proportion to its factor: the length of a training does not depend on the sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from segkit.data.label_map import DataError
from segkit.data.pairs import Pairs
from segkit.data.verify import map_indices
from segkit.types import Dataset, label_ignore_index

NAMED_CLASSES = 5  # in the note


class RepeatFactors:
    """Repeat factors of samples, and the counts of each in an epoch.

    Attributes:
        factors: (N,), positive; only their ratios matter.
        note: for the log.
    """

    def __init__(self, factors: np.ndarray, note: str = "") -> None:
        self.factors, self.note = factors, note
        self.bounds = np.cumsum(factors) * (len(factors) / np.sum(factors))
        self.bounds[-1] = len(factors)  # exactly

    def draw_counts(self, random: np.random.Generator) -> np.ndarray:
        """Return how often an epoch has each sample: (N,), of sum N.

        Systematic sampling: each count is its expectation rounded up or down, and on average equal to it.
        """
        ends = np.floor(self.bounds + random.random()).astype(np.int64)
        return np.diff(np.minimum(ends, len(ends)), prepend=0)


def build_repeat_factors(dataset: Dataset, sampling: str, threshold: float) -> RepeatFactors | None:
    """Return the repeat factors of a training set, whose masks are read once; None for uniform sampling.

    Classes in a smaller fraction of the images than ``threshold`` are rare.
    """
    if sampling == "uniform":
        return None
    classes, names = list_classes(dataset), dataset.table.names
    frequency = compute_class_frequency(classes, dataset.table.num_classes)
    factors = compute_repeat_factors(classes, frequency, threshold)
    found = [index for index in np.argsort(frequency, kind="stable") if frequency[index] > 0]
    rarest = ", ".join(f"{names[index]} {frequency[index]:.1%}" for index in found[:NAMED_CLASSES])
    repeated, most = (factors > factors.min()).mean(), factors.max() / factors.min()
    note = (
        f"loader.sampling=repeat_factor: rarest classes, by their share of the images: {rarest}; "
        f"{repeated:.1%} of the images are drawn more often, up to {most:.3g} times as often as others"
    )
    return RepeatFactors(factors, note)


def compute_repeat_factors(
    classes: Sequence[np.ndarray], frequency: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the repeat factor of each image, (N,); 1 without rare classes.

    Args:
        classes: the class ids in each image.
        frequency: fraction of the images with each class, (K,).
        threshold: frequency below which a class has a factor above 1.
    """
    of_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(frequency, np.finfo(float).tiny)))
    return np.array([of_class[present].max(initial=1.0) for present in classes])


def compute_class_frequency(classes: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """Return the fraction of the images with each class, (K,), from the class ids in each image."""
    return np.bincount(np.concatenate(classes), minlength=num_classes) / len(classes)


def list_classes(dataset: Dataset) -> list[np.ndarray]:
    """Return the class ids in the mask of each sample, in ascending order; all masks are read.

    Raises:
        DataError: a mask cannot be read, and ``dataset.on_error`` is ``stop``; otherwise it has no classes.
    """
    if not isinstance(dataset, Pairs):
        indices = tqdm(range(len(dataset)), "classes of masks", unit="mask", disable=None)
        return [_find_classes(dataset.read(index).label) for index in indices]

    def read_classes(index: int) -> np.ndarray:
        try:
            return _find_classes(dataset.read_label(index))
        except DataError:
            if dataset.on_error == "stop":
                raise
            return np.empty(0, np.int64)

    return list(map_indices(read_classes, dataset, "classes of masks"))


def _find_classes(label: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(np.bincount(label.ravel()))
    return present[present != label_ignore_index(label)]
