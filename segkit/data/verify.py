"""Every file of a data set is read once, and everything that is wrong is reported together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

from segkit.data.label_map import DataError, Problem
from segkit.data.pairs import Pair, Pairs, read_mask, size_mismatch_message
from segkit.types import ignore_index

Result = TypeVar("Result")


def verify_dataset(dataset: Pairs, *, expected: int | None = None) -> list[Problem]:
    """What is wrong with the files of a data set that was built with ``on_error="skip"``.

    Args:
        dataset: one split.
        expected: images of the official split.
    """
    problems = list(dataset.problems)
    if expected is not None and len(dataset) != expected:
        place = os.path.commonpath([str(pair.image.parent) for pair in dataset.pairs])
        text = f"{len(dataset)} pairs where the official split has {expected}"
        problems.append(Problem("wrong number of files", place, text))
    for of_pair in map_pairs(lambda pair: _check_pair(dataset, pair), dataset.pairs, "verify"):
        problems += of_pair
    return problems


def map_pairs(work: Callable[[Pair], Result], pairs: list[Pair], title: str) -> Iterator[Result]:
    """Results in the order of the pairs, with a progress bar; decoding frees Python's lock, so threads do."""
    cv2.setNumThreads(0)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from tqdm(threads.map(work, pairs), title, len(pairs), unit="pair", smoothing=0, disable=None)


def _check_pair(dataset: Pairs, pair: Pair) -> list[Problem]:
    problems, shapes = [], []
    try:
        image = dataset.read_image(pair)
        shapes.append(image)
    except DataError as error:
        problems.append(error.problem)
    try:
        raw = read_mask(pair.label, dataset.coding)
        shapes.append(raw)
        if (dataset.encode(raw, pair) == ignore_index(dataset.table.num_classes)).all():
            problems.append(Problem("all ignored", str(pair.label), "not one pixel is of a class"))
    except DataError as error:
        problems.append(error.problem)
    if len(shapes) == 2 and shapes[0].shape[:2] != shapes[1].shape[:2]:
        problems.append(Problem("sizes differ", str(pair.label), size_mismatch_message(*shapes)))
    return problems
