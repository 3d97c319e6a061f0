"""Archives for the benchmark servers of ADE20K and Cityscapes: written, read back, and verified."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segkit.data.labels import LabelTable
from segkit.inference import outputs
from segkit.system import files


class Format(NamedTuple):
    """What a server asks for beyond one PNG of the data set's own ids for each image."""

    drop: str = ""  # end of the image's name that the mask's name is without
    size: tuple[int, int] | None = None  # height, width of every image


FORMATS = {"ade20k": Format(), "cityscapes": Format("_leftImg8bit", (1024, 2048))}


def format_of(table: LabelTable) -> Format:
    """The format of the data set a network was trained for.

    Raises:
        ValueError: its server is not known.
    """
    if table.name not in FORMATS:
        raise ValueError(
            f"submission=true: these are classes of {table.name}; there are servers for {', '.join(FORMATS)}"
        )
    return FORMATS[table.name]


def pack(folder: Path, names: Sequence[str], table: LabelTable) -> Path:
    """Pack the id masks of these images into ``submission.zip``, and verify what was written.

    Args:
        folder: of the results, with the masks that ``outputs.save`` wrote as ``ids``.
        names: of all images of the benchmark.
        table: of the classes.

    Raises:
        ValueError: two masks would have one name, one is missing, or one is not as the server wants it.
    """
    wanted = format_of(table)
    masks = {f"{Path(name).name.removesuffix(wanted.drop)}.png": name for name in names}
    if len(masks) < len(names):
        often = Counter(Path(name).name.removesuffix(wanted.drop) for name in names).most_common(1)[0]
        raise ValueError(f"{often[1]} images are called {often[0]}: the server tells them by their names")
    target = folder / "submission.zip"
    with files.whole(target) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for mask, name in masks.items():
                archive.write(outputs.file_of(folder, "ids", name), mask)
        file.flush()
        verify(Path(file.name), list(masks), table)
    return target


def verify(path: Path, names: Sequence[str], table: LabelTable) -> None:
    """Read an archive as the server would.

    Args:
        path: of the archive.
        names: of the masks it must hold, and no other.
        table: of the classes, whose own ids are the values that may occur.

    Raises:
        ValueError: a mask is missing, too many, damaged, of the wrong size, or holds other values.
    """
    wanted, ids = format_of(table), np.array([entry.id for entry in table.classes])
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
        if different := set(inside) ^ set(names):
            raise ValueError(f"the archive's masks are not those expected, see {min(different)}")
        for name in inside:
            mask = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            if mask is None or mask.dtype != np.uint8 or mask.ndim != 2:
                raise ValueError(f"{name} is not a grey 8-bit PNG")
            if wanted.size and mask.shape != wanted.size:
                raise ValueError(
                    f"{name} is {mask.shape[1]}x{mask.shape[0]}; the server of {table.name} wants "
                    f"{wanted.size[1]}x{wanted.size[0]}: predict the original images"
                )
            if strange := sorted(set(np.unique(mask).tolist()) - set(ids.tolist())):
                raise ValueError(f"{name} holds {strange[:8]}, which are no classes of {table.name}")
