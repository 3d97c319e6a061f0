"""What ``input=`` may name: an image, a folder, a pattern, a list of files, a video or a camera."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segkit.data.pairs import IMAGES, read_image
from segkit.types import PHOTOGRAPHS, Bands

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
ACCEPTED = "an image, a folder, a pattern such as photos/*.jpg, a list (.txt), a video or a camera's number"


class ImageFile(NamedTuple):
    """A file, and the name of what is predicted from it."""

    file: Path
    name: str  # path below what was given, without suffix; results are named after it


def is_video(source: str | int) -> bool:
    """Whether images come one after another, from a file or a camera."""
    if isinstance(source, int):
        return True
    place = Path(source).expanduser()
    return place.suffix.lower() in VIDEOS and not place.is_dir()


def title(source: str | int) -> str:
    """A short name for what is given."""
    if isinstance(source, int):
        return f"camera{source}"
    place = Path(source).expanduser()
    if not place.exists() and glob.has_magic(source):
        place = _fixed_part(str(place))
    return place.resolve().stem or "images"


def find(source: str | int | None) -> list[ImageFile]:
    """The images that are named, in order; a video or a camera has none until it is opened.

    Raises:
        ValueError: nothing is named, or there is nothing there.
    """
    if source is None or source == "":
        raise ValueError(f"input= is missing: give {ACCEPTED}")
    if isinstance(source, int) or (is_video(source) and Path(source).expanduser().is_file()):
        return []
    place = Path(source).expanduser()
    if place.is_dir():
        files, base = _below(place), place
        if not files:
            raise ValueError(f"input={source}: no image is in this folder ({' '.join(IMAGES)})")
    elif place.is_file() and place.suffix.lower() == ".txt":
        files = _listed(place)
        base = Path(os.path.commonpath([file.parent.absolute() for file in files]))
    elif place.is_file():
        files, base = [place], place.parent
    else:
        matches = [Path(match) for match in glob.glob(str(place), recursive=True)]  # noqa: PTH207 (absolute ones)
        files = sorted(match for match in matches if match.suffix.lower() in IMAGES)
        base = _fixed_part(str(place))
        if not files:
            raise ValueError(f"input={source}: there is no such file, nor does it match one; give {ACCEPTED}")
    return _named(files, base)


def _below(folder: Path) -> list[Path]:
    files = []
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in IMAGES)


def _listed(file: Path) -> list[Path]:
    """The files of a list, one a line, relative to the list or to where the command runs."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    named = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"input={file}: the list is empty; it holds one image a line")
    return [path if (path.is_absolute() or path.exists()) else file.parent / path for path in named]


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _named(paths: Sequence[Path], base: Path) -> list[ImageFile]:
    """Images with names; of two that differ in nothing but the suffix, the names keep it."""
    files = list(dict.fromkeys(paths))
    below = [Path(os.path.relpath(file.absolute(), base.absolute())) for file in files]
    stems = [path.with_suffix("").as_posix() for path in below]
    often = Counter(stems)
    names = [stem if often[stem] == 1 else path.as_posix() for stem, path in zip(stems, below, strict=True)]
    return [ImageFile(file, name) for file, name in zip(files, names, strict=True)]


def read_ahead(
    images: Sequence[ImageFile], bands: Bands = PHOTOGRAPHS
) -> Iterator[tuple[ImageFile, np.ndarray | Exception]]:
    """Images (H, W, C), or why they cannot be read; each is read while the last is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for image in images:
            ready, waiting = waiting, (image, pool.submit(_read, image.file, bands))
            if ready:
                yield ready[0], ready[1].result()
        if waiting:
            yield waiting[0], waiting[1].result()


def _read(file: Path, bands: Bands) -> np.ndarray | Exception:
    try:
        return read_image(file, bands)
    except (ValueError, OSError, cv2.error) as error:
        return error
