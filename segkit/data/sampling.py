"""Repeat factor sampling: images with rare classes are drawn more often (LVIS, arXiv 1908.03195).

A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)), and an image has the largest
factor of its classes. In LVIS the factors lengthen an epoch. Here an epoch keeps its number of samples, and
has each image in proportion to its factor: the length of a training does not depend on the sampling.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segkit.data.label_map import DataError
from segkit.data.pairs import Pairs
from segkit.data.verify import map_indices
from segkit.runtime import files
from segkit.runtime.download import cache_folder
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
    effect = f"{repeated:.1%} of the images are drawn more often, up to {most:.3g} times as often as others"
    if not repeated:
        effect = (
            f"sampling is uniform: loader.repeat_threshold={threshold:g} gives all images the same factor"
        )
    note = f"loader.sampling=repeat_factor: rarest classes, by their share of the images: {rarest}; {effect}"
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
    """Return the class ids in the mask of each sample, in ascending order.

    All masks are read, with a progress bar. The result for files is cached until one of them changes.

    Raises:
        DataError: a mask cannot be read, and ``dataset.on_error`` is ``stop``; otherwise it has no classes.
    """
    if not isinstance(dataset, Pairs):
        indices = tqdm(range(len(dataset)), "classes of masks", unit="mask", disable=None)
        return [_find_classes(dataset.read(index).label) for index in indices]
    path = _cache_path(dataset)
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), np.load(path) as stored:
        return np.split(stored["classes"], stored["ends"][:-1])

    def read_classes(index: int) -> np.ndarray:
        try:
            return _find_classes(dataset.read_label(index))
        except DataError:
            if dataset.on_error == "stop":
                raise
            return np.empty(0, np.int64)

    classes = list(map_indices(read_classes, dataset, "classes of masks"))
    with contextlib.suppress(OSError):  # without a cache the masks are read again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as file:
            np.savez(file, classes=np.concatenate(classes), ends=np.cumsum([len(ids) for ids in classes]))
    return classes


def _find_classes(label: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(np.bincount(label.ravel()))
    return present[present != label_ignore_index(label)]


def _cache_path(dataset: Pairs) -> Path:
    """Return the file of the classes of a data set; its name depends on the masks and their label maps."""
    digest = hashlib.sha256(repr((dataset.coding, dataset.table)).encode())
    for pair in dataset.pairs:
        with contextlib.suppress(OSError):  # reported when the mask is read
            stat = pair.label.stat()
            key = (str(pair.label.absolute()), stat.st_size, stat.st_mtime_ns, pair.table)
            digest.update(repr(key).encode())
    return cache_folder() / "classes" / f"{digest.hexdigest()[:32]}.npz"
