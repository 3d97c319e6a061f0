"""Find images that are in both the training and the validation split."""

from __future__ import annotations

import filecmp
import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import registry
from segkit.runtime import run_folder
from segkit.runtime.text import format_count

MOST_COMPARED = 5_000  # files of equal size that are looked into; each costs one small read
SAMPLE = 4096  # bytes from the middle of a file, where two photographs of equal size differ

LOG = logging.getLogger("segkit")


def find_shared_images(train: Any, val: Any) -> list[tuple[Path, Path]]:
    """Return the training file and the validation file of each image that both splits hold.

    The same file is found under any path, through links too; a copy by its content, as long as there are not
    too many files of equal size. Data sets without files have none.
    """
    sources, images = _stat_images(train), _stat_images(val)
    by_inode = {(status.st_dev, status.st_ino): file for file, status in sources.items()}
    shared: list[tuple[Path, Path]] = []
    others: list[Path] = []  # validation files that are no training file themselves, but may be copies
    for file, status in images.items():
        source = by_inode.get((status.st_dev, status.st_ino))
        if source is None:
            others.append(file)
        else:
            shared.append((source, file))
    sizes = {images[file].st_size for file in others} & {status.st_size for status in sources.values()}
    others = [file for file in others if images[file].st_size in sizes]
    candidates = [file for file, status in sources.items() if status.st_size in sizes]
    if len(others) + len(candidates) > MOST_COMPARED:
        return shared
    by_sample: dict[bytes, list[Path]] = defaultdict(list)
    for file in candidates:
        by_sample[_read_sample(file)].append(file)
    for file in others:
        for source in by_sample[_read_sample(file)]:
            if filecmp.cmp(source, file, shallow=False):
                shared.append((source, file))
                break
    return shared


def _image_files(dataset: Any) -> list[Path]:
    inner = getattr(dataset, "dataset", dataset)  # an AlignedDataset wraps another data set
    return [pair.image for pair in getattr(inner, "pairs", ())]


def _stat_images(dataset: Any) -> dict[Path, os.stat_result]:
    return {file: file.stat() for file in _image_files(dataset) if os.access(file, os.R_OK)}


def _read_sample(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size // 2 - SAMPLE // 2))
        return opened.read(SAMPLE)


def describe_overlap(train: Any, val: Any) -> str:
    """Return a sentence on the images that both splits hold; empty if there are none."""
    if not (shared := find_shared_images(train, val)):
        return ""
    source, image = shared[0]
    verb = "is" if len(shared) == 1 else "are"
    return (
        f"{len(shared)} of {format_count(len(val), 'validation image')} {verb} also trained on, such as "
        f"{image} (in training {source}): scores will be too high. Check data.train_split and data.val_split"
    )


def warn_about_overlap(train: Any, val: Any) -> None:
    """Warn on the main process if a validation image is also a training image."""
    if run_folder.is_main() and (text := describe_overlap(train, val)):
        LOG.warning("%s", text)


def warn_if_trained_on(data: Mapping[str, Any], val: Any) -> None:
    """Warn if an image to be scored is in the training split of a network, described by its data settings.

    There is no warning if the files of that split are missing.
    """
    if not run_folder.is_main() or not data or not _image_files(val):
        return
    try:
        train = registry.build("data.datasets", {**data, "on_error": "skip"}, split="train")
    except (ValueError, OSError, TypeError):
        return
    warn_about_overlap(train, val)
