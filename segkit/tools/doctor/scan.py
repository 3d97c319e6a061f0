"""Read every image and mask once and keep a few numbers of each (about 2 KB)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass
class Scan:
    """Result of reading the splits of a data set; K classes."""

    datasets: dict[str, Pairs]
    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)  # of files that cannot be read
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # (K,) of each class, by split
    images: dict[str, np.ndarray] = field(default_factory=dict)  # (K,) images that contain the class

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the images by split."""
        return {split: dataset.names for split, dataset in self.datasets.items()}


def scan_datasets(datasets: Mapping[str, Pairs]) -> Scan:
    """Read all splits, built with ``on_error="skip"``; files that cannot be read become problems."""
    scan = Scan(dict(datasets))
    for split, dataset in datasets.items():
        _scan_split(scan, split, dataset)
    return scan


def _scan_split(scan: Scan, split: str, dataset: Pairs) -> None:
    pixels, images = np.zeros((2, dataset.table.num_classes), np.int64)
    scan.pixels[split], scan.images[split] = pixels, images
    scan.problems += dataset.problems

    def examine(index: int) -> tuple[Record, np.ndarray] | Problem:
        try:
            return examine_pair(dataset, Key(split, index))
        except DataError as error:
            return error.problem

    for result in map_indices(examine, dataset, f"read {split}"):
        if isinstance(result, Problem):
            scan.problems.append(result)
        else:
            record, counts = result
            scan.records.append(record)
            pixels += counts
            images += counts > 0


def examine_pair(dataset: Pairs, key: Key) -> tuple[Record, np.ndarray]:
    """Return the record of an image and the pixels of each class, (K,); raise as ``Pairs.read``."""
    pair, num_classes = dataset.pairs[key.position], dataset.table.num_classes
    image, label = dataset.read_image(key.position), dataset.read_label(key.position)
    if image.shape[:2] != label.shape:
        raise DataError("sizes differ", pair.label, size_mismatch_message(image, label), "")
    ignored = ignore_index(num_classes)
    pixels = np.bincount(label.ravel(), minlength=ignored + 1)[:num_classes]
    gray, is_gray = to_gray(image, dataset)
    low, high, mean, std = image.min(), image.max(), image.mean(dtype=np.float64), gray.std()
    descriptor = copies.describe_image(gray)
    fit = None
    if descriptor.any():  # not a plain image
        fit = agreement.measure_agreement(gray, label)
    record = Record(
        key,
        pair.name,
        size=label.shape,
        dtype=str(image.dtype),
        values=(float(low), float(high), float(mean), float(std)),
        is_gray=is_gray,
        descriptor=descriptor,
        image_digest=_digest(image),
        mask_digest=_digest(label),
        classes=int((pixels > 0).sum()),
        labeled=float(pixels.sum() / label.size),
        agreement=fit,
    )
    return record, pixels


def to_gray(image: np.ndarray, dataset: Pairs) -> tuple[np.ndarray, bool]:
    """Return the displayed bands as gray (H, W) uint8, and whether they are equal."""
    rgb = to_display_rgb(image, dataset.bands)
    small = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int16)
    is_gray = bool(np.ptp(small, axis=2).mean() < GRAY_TOLERANCE)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), is_gray


def _digest(array: np.ndarray) -> bytes:
    head = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=12).digest()
