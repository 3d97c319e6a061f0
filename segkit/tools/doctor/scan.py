"""Read every image and mask once and keep a few numbers of each (about 2 KB)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import cv2
import numpy as np

from segkit.data.label_map import DataError, Problem
from segkit.data.pairs import Pairs, size_mismatch_message
from segkit.data.verify import map_indices
from segkit.tools.doctor import agreement, copies
from segkit.tools.doctor.findings import Key, Record
from segkit.types import ignore_index
from segkit.visualize.overlays import to_display_rgb

GRAY_TOLERANCE = 2.0  # mean difference between the bands of a gray image, of 255; JPEG adds some


def scan_datasets(datasets: Mapping[str, Pairs]) -> tuple[list[Record], list[Problem]]:
    """Read all splits, built with ``on_error="skip"``; files that cannot be read become problems."""
    records, problems = [], []
    for split, dataset in datasets.items():
        problems += dataset.problems
        for result in map_indices(partial(_examine, dataset, split), dataset, f"read {split}"):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                records.append(result)
    return records, problems


def _examine(dataset: Pairs, split: str, position: int) -> Record | Problem:
    try:
        return examine_pair(dataset, split, position)
    except DataError as error:
        return error.problem


def examine_pair(dataset: Pairs, split: str, position: int) -> Record:
    """Return the record of an image; raise as ``Pairs.read``."""
    pair, num_classes = dataset.pairs[position], dataset.table.num_classes
    image, label = dataset.read_image(position), dataset.read_label(position)
    if image.shape[:2] != label.shape:
        raise DataError("sizes differ", pair.label, size_mismatch_message(image, label), "")
    gray, is_gray = to_gray(image, dataset)
    low, high, mean, std = image.min(), image.max(), image.mean(dtype=np.float64), gray.std()
    descriptor = copies.describe_image(gray)
    fit = None
    if descriptor.any():  # not a plain image
        fit = agreement.measure_agreement(gray, label)
    return Record(
        Key(split, position, pair.name),
        size=label.shape,
        dtype=str(image.dtype),
        values=(float(low), float(high), float(mean), float(std)),
        is_gray=is_gray,
        descriptor=descriptor,
        image_digest=_digest(image),
        mask_digest=_digest(label),
        pixels=np.bincount(label.ravel(), minlength=ignore_index(num_classes) + 1)[:num_classes].copy(),
        agreement=fit,
    )


def to_gray(image: np.ndarray, dataset: Pairs) -> tuple[np.ndarray, bool]:
    """Return the displayed bands as gray (H, W) uint8, and whether they are equal."""
    rgb = to_display_rgb(image, dataset.bands)
    small = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int16)
    is_gray = bool(np.ptp(small, axis=2).mean() < GRAY_TOLERANCE)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), is_gray


def _digest(array: np.ndarray) -> bytes:
    head = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=12).digest()
