"""Archives for the benchmark servers of ADE20K, Cityscapes and Pascal VOC: written, read back, verified."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from segkit.data.label_map import LabelMap
from segkit.inference import outputs
from segkit.runtime import files


class ArchiveFormat(NamedTuple):
    """What a server asks for beyond one PNG of the data set's own ids for each image."""

    drop: str = ""  # end of the image's name that the mask's name is without
    size: tuple[int, int] | None = None  # height, width of every image
    folder: str = ""  # of the masks in the archive
    palette: bool = False  # masks are palette files with the colors of the classes
    file: str = "submission.zip"


VOC_FOLDER = (
    "results/VOC2012/Segmentation/comp6_test_cls/"  # comp6: other training data are allowed (ImageNet)
)
FORMATS = {
    "ade20k": ArchiveFormat(),
    "cityscapes": ArchiveFormat("_leftImg8bit", (1024, 2048)),
    "voc": ArchiveFormat(folder=VOC_FOLDER, palette=True, file="submission.tgz"),
}


def find_format(table: LabelMap) -> ArchiveFormat:
    """The format of the data set a network was trained for.

    Raises:
        ValueError: its server is not known.
    """
    if table.name not in FORMATS:
        raise ValueError(
            f"submission=true: these are classes of {table.name}; there are servers for {', '.join(FORMATS)}"
        )
    return FORMATS[table.name]


def pack_archive(folder: Path, names: Sequence[str], table: LabelMap) -> Path:
    """Pack the id masks of these images into the archive that the server takes, and verify what was written.

    Args:
        folder: of the results, with the masks that ``outputs.save`` wrote as ``ids``.
        names: of all images of the benchmark.
        table: of the classes.

    Raises:
        ValueError: two masks would have one name, one is missing, or one is not as the server wants it.
    """
    wanted = find_format(table)
    masks = {f"{Path(name).name.removesuffix(wanted.drop)}.png": name for name in names}
    if len(masks) < len(names):
        often = Counter(Path(name).name.removesuffix(wanted.drop) for name in names).most_common(1)[0]
        raise ValueError(f"{often[1]} images are called {often[0]}: the server tells them by their names")
    target = folder / wanted.file
    packed = {wanted.folder + mask: outputs.output_path(folder, "ids", name) for mask, name in masks.items()}
    with files.atomic_write(target) as file:
        write_archive(file, packed, table)
        file.flush()
        verify_archive(Path(file.name), list(masks), table)
    return target


def write_archive(target: IO[bytes], masks: Mapping[str, Path], table: LabelMap) -> None:
    """Write mask files to a zip archive, or as palette files to a tgz archive."""
    wanted = find_format(table)
    if wanted.file.endswith(".zip"):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for name, path in masks.items():
                archive.write(path, name)
        return
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, path in masks.items():
            data = _with_palette(path, table) if wanted.palette else path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _with_palette(path: Path, table: LabelMap) -> bytes:
    palette = np.zeros((256, 3), np.uint8)
    palette[[entry.id for entry in table.entries]] = [entry.color for entry in table.entries]
    buffer = io.BytesIO()
    with Image.open(path) as mask:
        if mask.mode == "L":  # another mode is refused by verify
            mask.putpalette(palette.tobytes())
        mask.save(buffer, "PNG")
    return buffer.getvalue()


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of a zip or tgz archive by name."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        opened = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in opened.items() if file}


def verify_archive(path: Path, names: Sequence[str], table: LabelMap) -> None:
    """Read an archive as the server would.

    Args:
        path: of the archive.
        names: of the masks it must hold, and no other.
        table: of the classes, whose own ids are the values that may occur.

    Raises:
        ValueError: a mask is missing, too many, damaged, of the wrong size, or holds other values.
    """
    wanted, ids = find_format(table), {entry.id for entry in table.classes}
    inside = read_archive(path)
    if different := set(inside) ^ {wanted.folder + name for name in names}:
        raise ValueError(f"the archive's masks are not those expected, see {min(different)}")
    for name, data in inside.items():
        mask = _read_mask(data, name, "P" if wanted.palette else "L")
        if wanted.size and mask.shape != wanted.size:
            raise ValueError(
                f"{name} is {mask.shape[1]}x{mask.shape[0]}; the server of {table.name} wants "
                f"{wanted.size[1]}x{wanted.size[0]}: predict the original images"
            )
        if strange := sorted(set(np.unique(mask).tolist()) - ids):
            raise ValueError(f"{name} holds {strange[:8]}, which are no classes of {table.name}")


def _read_mask(data: bytes, name: str, mode: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as mask:
            if mask.mode == mode:
                return np.array(mask)
    except (OSError, SyntaxError, ValueError):
        pass
    raise ValueError(f"{name} is not {'a palette' if mode == 'P' else 'a gray 8-bit'} PNG")
