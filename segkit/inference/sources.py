"""Inputs of a prediction: an image, a folder, a pattern, a list of files, a video, a camera, or several."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segkit.config.values import expand_home
from segkit.data.pairs import IMAGE_SUFFIXES, read_image
from segkit.inference.prediction_index import ImageFile, drop_outputs
from segkit.runtime import files
from segkit.types import PHOTOGRAPHS, Bands

LOG = logging.getLogger("segkit")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
ACCEPTED = "an image, a folder, a pattern such as photos/*.jpg, a list (.txt), a video or a camera's number"


class Source(NamedTuple):
    """The images or the video that ``input=`` names.

    Attributes:
        place: absolute, the same for the same input.
        title: a short name.
        images: and the names of what is predicted from them; of a video or a camera, that alone.
        is_video: whether frames come one after another.
    """

    place: str
    title: str
    images: list[ImageFile]
    is_video: bool = False


def find_images(given: str | Sequence[str] | None) -> Source:
    """Return the source that is named, its images in order.

    Raises:
        ValueError: nothing is named, or there is nothing there.
    """
    if given is None or len(given) == 0:
        raise ValueError(f"input= is missing: give {ACCEPTED}")
    if not isinstance(given, str):
        return _find_several(given)
    path = _absolute(Path(expand_home(given)))
    if given.isdecimal() and not path.exists():
        camera = f"camera{int(given)}"
        return Source(camera, camera, [ImageFile(path, camera, int(given))], is_video=True)
    title = path.name if path.is_dir() else path.stem
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return Source(str(path), title, [ImageFile(path, title)], is_video=True)
    if path.is_dir():
        base = path
        found = drop_outputs(_images_below(path), base)
        if not found:
            raise ValueError(f"input={given}: no image is in this folder ({' '.join(IMAGE_SUFFIXES)})")
    elif path.is_file() and path.suffix.lower() == ".txt":
        found = _read_list(path)
        base = _common_folder(found)
    elif path.is_file():
        base, found = path.parent, [path]
    else:
        pattern = Path(expand_home(given))  # brackets in the current folder are no wildcards
        base = _absolute(_fixed_part(pattern))
        matches = [_absolute(Path(match)) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207
        found = drop_outputs(
            sorted(match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES), base
        )
        title = base.name
        if not found:
            raise ValueError(f"input={given}: there is no such file, nor does it match one; give {ACCEPTED}")
    return Source(str(path), title or "images", _name(found, base))


def _find_several(given: Sequence[str]) -> Source:
    sources = [find_images(one) for one in given]
    if len(sources) == 1:
        return sources[0]
    if videos := [text for text, source in zip(given, sources, strict=True) if source.is_video]:
        raise ValueError(
            f"input={videos[0]}: a video or a camera is predicted alone; give it as the only input"
        )
    paths = [image.file for source in sources for image in source.images]
    base = _common_folder(paths)
    return Source(" ".join(source.place for source in sources), base.name or "images", _name(paths, base))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - without following symbolic links


def _images_below(folder: Path, above: frozenset[str] = frozenset()) -> list[Path]:
    """Return the images in a folder and its subfolders; links are followed, but in no circle."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    found: list[Path] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        LOG.warning("%s: left out, it cannot be listed (%s)", folder, error.strerror)
        return []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += _images_below(entry, above | {real})
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            found.append(entry)
    return sorted(found)


def _read_list(file: Path) -> list[Path]:
    """Return the files of a list, one a line, relative to the list or to the current folder."""
    lines = [line.strip() for line in files.read_text(file).splitlines()]
    named = [Path(os.path.expanduser(line)) for line in lines if line and not line.startswith("#")]  # noqa: PTH111
    if not named:
        raise ValueError(f"input={file}: the list is empty; it holds one image a line")
    return [_absolute(path if path.is_absolute() or path.exists() else file.parent / path) for path in named]


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _name(paths: Sequence[Path], base: Path) -> list[ImageFile]:
    """Name images by their path below ``base`` without suffix; where two would have one name, with it."""
    unique = list(dict.fromkeys(paths))
    whole = [path.relative_to(base).as_posix() for path in unique]
    names = [path.relative_to(base).with_suffix("").as_posix() for path in unique]
    while twice := [name for name, count in Counter(names).items() if count > 1]:
        names = [full if name in twice else name for full, name in zip(whole, names, strict=True)]
    return [ImageFile(path, name) for path, name in zip(unique, names, strict=True)]


def read_images(
    images: Sequence[ImageFile], bands: Bands = PHOTOGRAPHS
) -> Iterator[tuple[ImageFile, np.ndarray | Exception]]:
    """Yield images (H, W, C), or why they cannot be read; each is read while the last is in use."""
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
