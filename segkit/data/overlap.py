"""Find images that are in both the training and the validation split."""

from __future__ import annotations

import contextlib
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
    """Return training and validation file of each validation image that both splits hold.

    The same file is found under any path, through links too; a copy by its content, as long as there are not
    too many files of equal size. Data sets without files have none.
    """
    sources, images = (_stat_images(split) for split in (train, val))
    by_inode = {(status.st_dev, status.st_ino): file for file, status in sources.items()}
    shared, others = [], []
    for file, status in images.items():
        if same := by_inode.get((status.st_dev, status.st_ino)):
            shared.append((same, file))
        else:
            others.append(file)
    sizes = {images[file].st_size for file in others} & {status.st_size for status in sources.values()}
    others = [file for file in others if images[file].st_size in sizes]
    sources = {file: status for file, status in sources.items() if status.st_size in sizes}
    if len(others) + len(sources) > MOST_COMPARED:
        return shared
    by_sample: dict[tuple[int, bytes], list[Path]] = defaultdict(list)
    for file, status in sources.items():
        with contextlib.suppress(OSError):  # reading the sample reports it
            by_sample[_read_sample(file, status.st_size)].append(file)
    for file in others:
        with contextlib.suppress(OSError):
            for other in by_sample.get(_read_sample(file, images[file].st_size), []):
                if filecmp.cmp(other, file, shallow=False):
                    shared.append((other, file))
                    break
    return shared


def _image_files(dataset: Any) -> list[Path]:
    pairs = getattr(getattr(dataset, "dataset", dataset), "pairs", ())  # of an AlignedDataset those inside
    return [pair.image for pair in pairs]


def _stat_images(dataset: Any) -> dict[Path, os.stat_result]:
    return {file: file.stat() for file in _image_files(dataset) if file.exists()}


def _read_sample(file: Path, size: int) -> tuple[int, bytes]:
    with file.open("rb") as opened:
        opened.seek(max(0, size // 2 - SAMPLE // 2))
        return size, opened.read(SAMPLE)


def describe_overlap(train: Any, val: Any) -> str:
    """Return a sentence on the images that both splits hold; empty if there are none."""
    if not (shared := find_shared_images(train, val)):
        return ""
    source, image = shared[0]
    same = "" if source == image else f" (the training file {source})"
    verb = "is" if len(shared) == 1 else "are"
    count = f"{len(shared)} of {format_count(len(val), 'validation image')} {verb}"
    return (
        f"{count} also trained on, such as {image}{same}: "
        "scores will be too high. Check data.train_split and data.val_split"
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
