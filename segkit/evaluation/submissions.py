"""Submission archives for the benchmark servers of ADE20K, Cityscapes and Pascal VOC."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segkit.data.label_map import LabelMap
from segkit.inference import outputs


class ArchiveFormat(NamedTuple):
    """Format of a server's archive; it holds one PNG of dataset ids per image."""

    drop: str = ""  # suffix of the image names that the mask names lack
    size: tuple[int, int] | None = None  # required height, width
    folder: str = ""  # of the masks in the archive
    palette: bool = False  # masks are palette images with the colors of the classes
    kind: str = "zip"  # of ``shutil.make_archive``
    file: str = "submission.zip"


FORMATS = {
    "ade20k": ArchiveFormat(),
    "cityscapes": ArchiveFormat("_leftImg8bit", (1024, 2048)),
    "voc": ArchiveFormat(  # comp6: other training data are allowed (ImageNet)
        folder="results/VOC2012/Segmentation/comp6_test_cls",
        palette=True,
        kind="gztar",
        file="submission.tgz",
    ),
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
    palette = np.zeros((256, 3), np.uint8)
    palette[[entry.id for entry in table.entries]] = [entry.color for entry in table.entries]
    with tempfile.TemporaryDirectory(dir=folder) as work:
        masks = Path(work, "masks", archive_format.folder)
        masks.mkdir(parents=True)
        for mask_name, name in zip(mask_names, names, strict=True):
            image = Image.fromarray(_read_mask(outputs.output_path(folder, "ids", name), table))
            if archive_format.palette:
                image.putpalette(palette.tobytes())
            image.save(masks / mask_name)
        top = archive_format.folder.partition("/")[0] or "."
        archive = shutil.make_archive(f"{work}/archive", archive_format.kind, f"{work}/masks", top)
        return Path(archive).replace(folder / archive_format.file)


def _read_mask(file: Path, table: LabelMap) -> np.ndarray:
    """Return the dataset ids of a mask (H, W) uint8.

    Raises:
        ValueError: the mask is missing, damaged, of the wrong size, or has other values.
    """
    try:
        with Image.open(file) as image:
            ids, mode = np.array(image), image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is missing or damaged: {error}") from error
    if mode != "L":
        raise ValueError(f"{file} is not a gray 8-bit PNG")
    size = find_archive_format(table).size
    if size and ids.shape != size:
        raise ValueError(
            f"{file} is {ids.shape[1]}x{ids.shape[0]}; the server of {table.name} requires "
            f"{size[1]}x{size[0]}: predict the original images"
        )
    unknown = sorted(set(np.unique(ids).tolist()) - {entry.id for entry in table.classes})
    if unknown:
        raise ValueError(f"{file} contains {unknown[:8]}, which are not classes of {table.name}")
    return ids
