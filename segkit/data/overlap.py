"""Find images that are in both the training and the validation split."""

from __future__ import annotations

import filecmp
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import registry
from segkit.runtime import run_folder

MOST_COMPARED = 5_000  # files of equal size that are looked into; each costs one small read
SAMPLE = 4096  # bytes from the middle of a file, where two photographs of equal size differ

LOG = logging.getLogger("segkit")


def find_shared_images(train: Any, val: Any) -> list[tuple[Path, Path]]:
    """Return training and validation file of each validation image that both splits hold.

    The same file is found under any path, through links too; a copy by its content, as long as there are not
    too many files of equal size. Data sets without files have none.
    """
    sources, images = (_stat_images(split) for split in (train, val))
    by_file = {(status.st_dev, status.st_ino): file for file, status in sources.items()}
    by_size: dict[int, list[Path]] = {}
    for file, status in sources.items():
        by_size.setdefault(status.st_size, []).append(file)
    shared, alike = [], {}
    for file, status in images.items():
        if (same := by_file.get((status.st_dev, status.st_ino))) is not None:
            shared.append((same, file))
        elif status.st_size in by_size:
            alike[file] = by_size[status.st_size]
    if len(alike) + len({other for others in alike.values() for other in others}) > MOST_COMPARED:
        return shared
    samples: dict[Path, bytes] = {}
    for file, others in alike.items():
        for other in others:
            if _same_content(file, other, images[file].st_size, samples):
                shared.append((other, file))
                break
    return shared


def _image_files(dataset: Any) -> list[Path]:
    pairs = getattr(getattr(dataset, "dataset", dataset), "pairs", ())  # of an AlignedDataset those inside
    return [pair.image for pair in pairs]


def _stat_images(dataset: Any) -> dict[Path, os.stat_result]:
    return {file: file.stat() for file in _image_files(dataset) if file.exists()}


def _same_content(one: Path, other: Path, size: int, samples: dict[Path, bytes]) -> bool:
    try:
        for file in (one, other):
            if file not in samples:
                with file.open("rb") as opened:
                    opened.seek(max(0, size // 2 - SAMPLE // 2))
                    samples[file] = opened.read(SAMPLE)
        return samples[one] == samples[other] and filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False  # reading the sample reports it


def describe_overlap(train: Any, val: Any) -> str:
    """Return a sentence on the images that both splits hold; empty if there are none."""
    if not (shared := find_shared_images(train, val)):
        return ""
    source, image = shared[0]
    same = "" if source == image else f" (the training file {source})"
    noun = "image" if len(val) == 1 else "images"
    verb = "is" if len(shared) == 1 else "are"
    return (
        f"{len(shared)} of {len(val)} validation {noun} {verb} also trained on, such as {image}{same}: "
        "scores will be too high. Check data.train_split and data.val_split"
    )


def warn_about_overlap(train: Any, val: Any) -> None:
    """Warn on the main process if a validation image is also a training image."""
    if run_folder.is_main() and (text := describe_overlap(train, val)):
        LOG.warning("%s", text)


def warn_if_trained_on(data: Mapping[str, Any], val: Any) -> None:
    """Warn if an image to be scored is in the training split that a network's settings describe.

    Args:
        data: settings of the data of its training; no warning if its files are gone.
        val: the data set that is scored.
    """
    if not run_folder.is_main() or not data or not _image_files(val):
        return
    try:
        train = registry.build("data.datasets", {**data, "on_error": "skip"}, split="train")
    except (ValueError, OSError, TypeError):
        return
    warn_about_overlap(train, val)
