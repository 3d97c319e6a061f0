"""What ``input=`` may name: a picture, a folder, a pattern, a list of files, a video or a camera."""

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
ACCEPTED = "a picture, a folder, a pattern such as photos/*.jpg, a list (.txt), a video or a camera's number"


class Picture(NamedTuple):
    """A file to look at."""

    file: Path
    name: str  # path below what was given, without suffix; results are named after it


def is_video(source: str | int) -> bool:
    """Whether pictures come one after another, from a file or a camera."""
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
    return place.resolve().stem or "pictures"


def find(source: str | int | None) -> list[Picture]:
    """The pictures that are named, in order; a video or a camera has none until it is opened.

    Raises:
        ValueError: nothing is named, or there is nothing there.
    """
    if source is None or source == "":
        raise ValueError(f"input= is missing: give {ACCEPTED}")
    if isinstance(source, int) or (is_video(source) and Path(source).expanduser().is_file()):
        return []
    place = Path(source).expanduser()
    if place.is_dir():
        found, base = _below(place), place
        if not found:
            raise ValueError(f"input={source}: no picture is in this folder ({' '.join(IMAGES)})")
    elif place.is_file() and place.suffix.lower() == ".txt":
        found = _listed(place)
        base = Path(os.path.commonpath([file.parent.absolute() for file in found]))
    elif place.is_file():
        found, base = [place], place.parent
    else:
        matches = [Path(match) for match in glob.glob(str(place), recursive=True)]  # noqa: PTH207 (absolute ones)
        found = sorted(match for match in matches if match.suffix.lower() in IMAGES)
        base = _fixed_part(str(place))
        if not found:
            raise ValueError(f"input={source}: there is no such file, nor does it match one; give {ACCEPTED}")
    return _named(found, base)


def _below(folder: Path) -> list[Path]:
    found = []
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.suffix.lower() in IMAGES)


def _listed(file: Path) -> list[Path]:
    """The files of a list, one a line, relative to the list or to where the command runs."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    named = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"input={file}: the list is empty; it holds one picture a line")
    return [path if (path.is_absolute() or path.exists()) else file.parent / path for path in named]


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _named(found: Sequence[Path], base: Path) -> list[Picture]:
    """Pictures with names; of two that differ in nothing but the suffix, the names keep it."""
    files = list(dict.fromkeys(found))
    below = [Path(os.path.relpath(file.absolute(), base.absolute())) for file in files]
    stems = [path.with_suffix("").as_posix() for path in below]
    often = Counter(stems)
    names = [stem if often[stem] == 1 else path.as_posix() for stem, path in zip(stems, below, strict=True)]
    return [Picture(file, name) for file, name in zip(files, names, strict=True)]


def read_ahead(
    pictures: Sequence[Picture], bands: Bands = PHOTOGRAPHS
) -> Iterator[tuple[Picture, np.ndarray | Exception]]:
    """Pictures (H, W, C), or why they cannot be read; each is read while the last is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for picture in pictures:
            ready, waiting = waiting, (picture, pool.submit(_read, picture.file, bands))
            if ready:
                yield ready[0], ready[1].result()
        if waiting:
            yield waiting[0], waiting[1].result()


def _read(file: Path, bands: Bands) -> np.ndarray | Exception:
    try:
        return read_image(file, bands)
    except (ValueError, OSError, cv2.error) as error:
        return error
