"""Submission archives for the benchmark servers of ADE20K, Cityscapes and Pascal VOC."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    """Pack the id masks of these images, saved in ``folder``, into an archive for the server.

    Raises:
        ValueError: two masks have the same name, or a mask is missing or not as the server requires.
    """
    archive_format = find_archive_format(table)
    mask_names = [f"{Path(name).name.removesuffix(archive_format.drop)}.png" for name in names]
    name, count = Counter(mask_names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images are called {Path(name).stem}: the server needs unique file names")
    target = folder / archive_format.file
    with files.atomic_write(target) as file, _open_archive(file, archive_format) as add:
        for mask_name, name in zip(mask_names, names, strict=True):
            data = _check_mask(outputs.output_path(folder, "ids", name), mask_name, table)
            add(archive_format.folder + mask_name, data)
    return target


@contextlib.contextmanager
def _open_archive(file: IO[bytes], archive_format: ArchiveFormat) -> Iterator[Callable[[str, bytes], object]]:
    """Open a zip or tgz archive and yield the function that adds a file to it."""
    if archive_format.file.endswith(".zip"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zip_archive:  # PNG is already compressed
            yield zip_archive.writestr
        return
    with tarfile.open(fileobj=file, mode="w:gz") as tar_archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar_archive.addfile(member, io.BytesIO(data))

        yield add


def _check_mask(path: Path, name: str, table: LabelMap) -> bytes:
    """Return the bytes of a mask for the server, as a palette image if it requires one.

    Raises:
        ValueError: the mask is missing, damaged, of the wrong size, or has other values.
    """
    archive_format, ids = find_archive_format(table), {entry.id for entry in table.classes}
    if not path.is_file():
        raise ValueError(f"{name} is missing: there is no {path}")
    image = None
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(path) as opened:
        image = opened.copy()
    if image is None or image.mode != "L":
        raise ValueError(f"{name} is not a gray 8-bit PNG")
    size = archive_format.size
    if size and image.size != size[::-1]:
        raise ValueError(
            f"{name} is {image.width}x{image.height}; the server of {table.name} requires "
            f"{size[1]}x{size[0]}: predict the original images"
        )
    if unknown := sorted(set(np.unique(np.array(image)).tolist()) - ids):
        raise ValueError(f"{name} contains {unknown[:8]}, which are not classes of {table.name}")
    if not archive_format.palette:
        return path.read_bytes()
    palette = np.zeros((256, 3), np.uint8)
    palette[[entry.id for entry in table.entries]] = [entry.color for entry in table.entries]
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
