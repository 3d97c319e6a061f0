"""Read every file of a data set once, and report all problems together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

from segkit.data.label_map import DataError, Problem
from segkit.data.pairs import Pairs, read_mask, size_mismatch_message
from segkit.types import ignore_index

Result = TypeVar("Result")


def verify_dataset(dataset: Pairs, *, expected: int | None = None) -> list[Problem]:
    """Return all problems of the files of one split, built with ``on_error="skip"``.

    ``expected`` is the number of images in the official split.
    """
    problems = list(dataset.problems)
    count = len(dataset) + len(dataset.excluded)
    if expected is not None and count != expected:
        folder = os.path.commonpath([str(pair.image.parent) for pair in dataset.pairs])
        text = f"{count} pairs where the official split has {expected}"
        problems.append(Problem("wrong number of files", folder, text))
    for pair_problems in map_indices(lambda index: _check_pair(dataset, index), dataset, "verify"):
        problems += pair_problems
    return problems


def map_indices(work: Callable[[int], Result], dataset: Pairs, title: str) -> Iterator[Result]:
    """Yield the result of each index of a data set in order, computed in threads, with a progress bar."""
    cv2.setNumThreads(0)
    count = len(dataset)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(work, range(count))
        yield from tqdm(results, title, count, unit="pair", smoothing=0, disable=None)


def _check_pair(dataset: Pairs, index: int) -> list[Problem]:
    pair = dataset.pairs[index]
    problems, arrays = [], []
    try:
        arrays.append(dataset.read_image(index))
    except DataError as error:
        problems.append(error.problem)
    try:
        mask = read_mask(pair.label, dataset.coding)
        arrays.append(mask)
        if (dataset.encode(mask, pair) == ignore_index(dataset.table.num_classes)).all():
            problems.append(Problem("all ignored", str(pair.label), "no pixel belongs to a class"))
    except DataError as error:
        problems.append(error.problem)
    if len(arrays) == 2 and arrays[0].shape[:2] != arrays[1].shape[:2]:
        problems.append(Problem("sizes differ", str(pair.label), size_mismatch_message(*arrays)))
    return problems
