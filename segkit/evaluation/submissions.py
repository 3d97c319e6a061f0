"""Submission archives for the benchmark servers of ADE20K, Cityscapes and Pascal VOC."""

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
    """Format of a server's archive; it holds one PNG of dataset ids per image."""

    drop: str = ""  # suffix of the image names that the mask names lack
    size: tuple[int, int] | None = None  # required height, width
    folder: str = ""  # of the masks in the archive
    palette: bool = False  # masks are palette images with the colors of the classes
    file: str = "submission.zip"


VOC_FOLDER = (
    "results/VOC2012/Segmentation/comp6_test_cls/"  # comp6: other training data are allowed (ImageNet)
)
FORMATS = {
    "ade20k": ArchiveFormat(),
    "cityscapes": ArchiveFormat("_leftImg8bit", (1024, 2048)),
    "voc": ArchiveFormat(folder=VOC_FOLDER, palette=True, file="submission.tgz"),
}


def find_archive_format(table: LabelMap) -> ArchiveFormat:
    """Return the format of the server's archive for the classes of a benchmark.

    Raises:
        ValueError: the data set has no server.
    """
    if table.name not in FORMATS:
        raise ValueError(
            f"submission=true: the classes are those of {table.name}; only {', '.join(FORMATS)} have servers"
        )
    return FORMATS[table.name]


def pack_archive(folder: Path, names: Sequence[str], table: LabelMap) -> Path:
    """Pack the id masks of these images into an archive for the server, and verify it.

    Args:
        folder: of the results, with the masks written as ``ids``.
        names: of all images of the benchmark.
        table: of the classes.

    Raises:
        ValueError: two masks have the same name, or a mask is missing or not as the server requires.
    """
    archive_format = find_archive_format(table)
    mask_names = [f"{Path(name).name.removesuffix(archive_format.drop)}.png" for name in names]
    name, count = Counter(mask_names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images are called {Path(name).stem}: the server needs unique file names")
    masks = {}
    for mask_name, name in zip(mask_names, names, strict=True):
        masks[archive_format.folder + mask_name] = outputs.output_path(folder, "ids", name)
    target = folder / archive_format.file
    with files.atomic_write(target) as file:
        write_archive(file, masks, table)
        file.flush()
        verify_archive(Path(file.name), mask_names, table)
    return target


def write_archive(target: IO[bytes], masks: Mapping[str, Path], table: LabelMap) -> None:
    """Write mask files to a zip archive, or as palette files to a tgz archive."""
    archive_format = find_archive_format(table)
    if archive_format.file.endswith(".zip"):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG is already compressed
            for name, path in masks.items():
                archive.write(path, name)
        return
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, path in masks.items():
            if archive_format.palette:
                data = _add_palette(path, table)
            else:
                data = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _add_palette(path: Path, table: LabelMap) -> bytes:
    palette = np.zeros((256, 3), np.uint8)
    palette[[entry.id for entry in table.entries]] = [entry.color for entry in table.entries]
    buffer = io.BytesIO()
    with Image.open(path) as mask:
        if mask.mode == "L":  # verify_archive rejects other modes
            mask.putpalette(palette.tobytes())
        mask.save(buffer, "PNG")
    return buffer.getvalue()


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of a zip or tgz archive by name."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in members.items() if file}


def verify_archive(path: Path, names: Sequence[str], table: LabelMap) -> None:
    """Check an archive as the server would.

    Args:
        path: of the archive.
        names: of its masks; there must be no others.
        table: of the classes; masks hold their dataset ids.

    Raises:
        ValueError: a mask is missing, unexpected, damaged, of the wrong size, or has other values.
    """
    archive_format, ids = find_archive_format(table), {entry.id for entry in table.classes}
    masks = read_archive(path)
    if different := set(masks) ^ {archive_format.folder + name for name in names}:
        raise ValueError(f"the archive has missing or unexpected masks, such as {min(different)}")
    for name, data in masks.items():
        mask = _read_mask(data, name, "P" if archive_format.palette else "L")
        size = archive_format.size
        if size and mask.shape != size:
            raise ValueError(
                f"{name} is {mask.shape[1]}x{mask.shape[0]}; the server of {table.name} requires "
                f"{size[1]}x{size[0]}: predict the original images"
            )
        if unknown := sorted(set(np.unique(mask).tolist()) - ids):
            raise ValueError(f"{name} contains {unknown[:8]}, which are not classes of {table.name}")


def _read_mask(data: bytes, name: str, mode: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as mask:
            if mask.mode == mode:
                return np.array(mask)
    except (OSError, SyntaxError, ValueError):
        pass
    kind = "a palette" if mode == "P" else "a gray 8-bit"
    raise ValueError(f"{name} is not {kind} PNG")
