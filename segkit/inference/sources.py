"""Inputs of a prediction: an image, a folder, a pattern, a list of files, a video, a camera, or several."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segkit.config.values import expand_home
from segkit.data.listing import unique_names, walk_files
from segkit.data.reading import IMAGE_SUFFIXES, read_image
from segkit.inference.prediction_index import ImageFile, drop_outputs
from segkit.runtime import files
from segkit.types import PHOTOGRAPHS, Bands

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
ACCEPTED = "an image, a folder, a pattern such as photos/*.jpg, a list (.txt), a video or a camera's number"


class Source(NamedTuple):
    """The images or the video of ``input=``.

    Attributes:
        place: absolute path, pattern or list; equal for equal inputs.
        title: short name, for the output folder.
        images: files and the names of their outputs; one entry for a video or a camera.
        video: file of a video, or number of a camera.
    """

    place: str
    title: str
    images: list[ImageFile]
    video: Path | int | None = None


def find_images(source: str | Sequence[str] | None) -> Source:
    """Return the images of ``input=`` in order.

    Raises:
        ValueError: the input is missing, does not exist or has no images.
    """
    if not source:
        raise ValueError(f"input= is missing: give {ACCEPTED}")
    if isinstance(source, str):
        return _find_images_of_one(source)
    found = [_find_images_of_one(one) for one in source]
    if len(found) == 1:
        return found[0]
    for text, one in zip(source, found, strict=True):
        if one.video is not None:
            raise ValueError(f"input={text}: a video or a camera must be the only input")
    paths = [image.file for one in found for image in one.images]
    base = _common_folder(paths)
    place = " ".join(one.place for one in found)
    return Source(place, base.name or "images", _name_images(paths, base))


def _find_images_of_one(source: str) -> Source:
    relative = Path(expand_home(source))
    path = _make_absolute(relative)
    if source.isdecimal() and not path.exists():
        camera = f"camera{int(source)}"
        return Source(camera, camera, [ImageFile(path, camera)], int(source))
    if path.is_file():
        if path.suffix.lower() in VIDEOS:
            return Source(str(path), path.stem, [ImageFile(path, path.stem)], path)
        paths, base = [path], path.parent
        if path.suffix.lower() == ".txt":
            paths = _read_list(path)
            base = _common_folder(paths)
        return Source(str(path), path.stem, _name_images(paths, base))
    if path.is_dir():
        paths, base = list(walk_files(path)), path
    else:  # relative: brackets in the current folder are no wildcards
        base = _make_absolute(_fixed_part(relative))
        paths = [_make_absolute(Path(match)) for match in glob.glob(str(relative), recursive=True)]  # noqa: PTH207
    images = sorted(file for file in paths if file.suffix.lower() in IMAGE_SUFFIXES)
    images = drop_outputs(images, base)
    if not images and path.is_dir():
        raise ValueError(f"input={source}: no image is in this folder ({' '.join(IMAGE_SUFFIXES)})")
    if not images:
        raise ValueError(f"input={source}: there is no such file, nor does it match one; give {ACCEPTED}")
    return Source(str(path), base.name or "images", _name_images(images, base))


def _make_absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links


def _read_list(file: Path) -> list[Path]:
    """Return the files of a list, one per line, relative to the current folder or to the list."""
    lines = [line.strip() for line in files.read_text(file).splitlines()]
    paths = [Path(os.path.expanduser(line)) for line in lines if line and not line.startswith("#")]  # noqa: PTH111
    if not paths:
        raise ValueError(f"input={file}: the list is empty; write one image per line")
    return [_make_absolute(path if path.exists() else file.parent / path) for path in paths]


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _name_images(paths: Sequence[Path], base: Path) -> list[ImageFile]:
    """Name images by their unique paths below ``base``."""
    unique = list(dict.fromkeys(paths))
    names = unique_names([path.relative_to(base).with_suffix("").as_posix() for path in unique], unique)
    return [ImageFile(path, name) for path, name in zip(unique, names, strict=True)]


def read_images(
    images: Iterable[ImageFile], bands: Bands = PHOTOGRAPHS
) -> Iterator[tuple[ImageFile, np.ndarray | Exception]]:
    """Yield each image (H, W, C), or the error of reading it."""
    for image in images:
        try:
            yield image, read_image(image.file, bands)
        except (ValueError, OSError, cv2.error) as error:
            yield image, error
