"""Your own images and masks: two folders or a list of files, and a class table.

The root contains ``images/``, ``masks/`` (or other folders) and ``classes.csv``. A split is a subfolder of
both, a list file (``.txt``, ``.csv``), or a share such as ``80%``. Masks hold ids (gray or palette PNG) or
colors.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segkit.config import NonNegativeInt, PathStr, PositiveInt
from segkit.data.label_map import DataError, LabelMap, Problem
from segkit.data.listing import unique_names
from segkit.data.pairs import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    MatchedFiles,
    Pair,
    Pairs,
    check_folders,
    match_files,
)
from segkit.data.reading import parse_bands
from segkit.runtime import files
from segkit.runtime.text import format_count

Limits = tuple[float, float]
Share = tuple[Fraction, Fraction]  # start and end in the shuffled images
DEFAULTS = {"train_split": "train", "val_split": "val", "images": "images/*", "masks": "masks/*"}
LAYOUT = (
    "Put images in images/, masks with the same names in masks/, or choose other folders with "
    "data.images='FOLDER/*' and data.masks='FOLDER/*', such as JPEGImages/* and SegmentationClass/*; "
    "see docs/own_data.md"
)

log = logging.getLogger("segkit")


def build(  # noqa: PLR0913 - one keyword for each key of conf/data/folder.yaml
    split: str,
    *,
    root: PathStr | list[PathStr],
    images: str = "images/*",
    masks: str = "masks/*",
    classes: PathStr = "classes.csv",
    train_split: PathStr = "train",
    val_split: PathStr = "val",
    seed: NonNegativeInt = 0,
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
    exclude: PathStr | None = None,
    bands: tuple[PositiveInt, ...] | None = None,
    range: Limits | tuple[Limits, ...] | Literal["percentile", "minmax"] | None = None,
    display: tuple[PositiveInt, ...] | None = None,
    fill: float | None = None,
) -> Pairs:
    """Return the images and masks of a split.

    Args:
        split: ``train`` or ``val``.
        root: folder with ``images/`` and ``masks/``; several are concatenated.
        images: folder of the images and, after ``*``, the end of their names.
        masks: the same for masks: with ``masks/*_mask``, ``a_mask.png`` is the mask of ``a.jpg``.
        classes: the class table, below the root or an absolute path. Each of several roots may have one;
            classes are matched by name, class ids follow the first.
        train_split: folder name, list file, or share (``80%``).
        val_split: the same; a share is taken from the other end, so 80% and 20% hold each image once.
        seed: of the shuffling before a share is taken.
        on_error: as in ``Pairs``.
        cache: ``disk`` stores decoded copies.
        exclude: list of training images to leave out, by name.
        bands: of the images, counted from 1, in the order of the network's input; None: RGB.
        range: values of black and white, for all bands or for each, or how to compute them from the
            training images; None: 0..255.
        display: bands shown in figures, one or three; None: the first.
        fill: replaces NaN.

    Raises:
        ValueError: a folder, list, table or listed file is missing.
    """
    train_share, val_share = _parse_shares(train_split, val_split)
    if split == "train":
        part, share = train_split, train_share
    else:
        part, share = val_split, val_share
    trees = _parse_pattern("images", images, IMAGE_SUFFIXES), _parse_pattern("masks", masks, MASK_SUFFIXES)
    roots = [root] if isinstance(root, str) else root
    paths = [check_folders(place, (tree.folder for tree in trees), LAYOUT) for place in roots]
    common = Path(os.path.commonpath([_make_absolute(path).parent for path in paths]))
    table = LabelMap.read(paths[0] / Path(classes).expanduser(), "folder")
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for path in paths:
        found, wrong = _find_split(path, *trees, part, share, f"data.{split}_split", seed)
        prefix = f"{_make_absolute(path).relative_to(common).as_posix()}/" if len(paths) > 1 else ""
        own = _read_own_table(table, path, classes)
        pairs += [pair._replace(name=prefix + pair.name, table=own) for pair in found]
        problems += wrong
    settings = {"train_split": train_split, "val_split": val_split, "images": images, "masks": masks}
    return Pairs(
        "folder",
        table,
        (_drop_duplicates(pairs, "data.root"), problems),
        root=root,
        coding="any",
        on_error=on_error,
        cache=cache,
        exclude=exclude if split == "train" else None,
        bands=parse_bands({"bands": bands, "range": range, "display": display, "fill": fill}),
        settings={key: value for key, value in settings.items() if value != DEFAULTS[key]},
    )


class Tree(NamedTuple):
    """Folder below a root, and the ends of the names of its files."""

    folder: str
    end: str  # before the suffix
    suffixes: tuple[str, ...]


def _parse_pattern(kind: str, pattern: str, suffixes: tuple[str, ...]) -> Tree:
    folder, star, end = pattern.partition("*")
    if "*" in end or "/" in end or (star and folder and not folder.endswith("/")):
        raise ValueError(
            f"data.{kind}={pattern}: must be a folder and the end of its file names, such as {kind}/* or "
            f"{kind}/*_end"
        )
    return Tree(folder.rstrip("/") or ".", end, suffixes)


def _parse_shares(train_split: str, val_split: str) -> tuple[Share | None, Share | None]:
    """Return the share of each split, None for one that is a folder or a list.

    Validation is taken from the end of the shuffled images, so 80% and 20% have no image in common.
    """
    train, val = _parse_share("train", train_split), _parse_share("val", val_split)
    if train is not None and val is not None and train + val > 1:
        raise ValueError(
            f"data.train_split={train_split} and data.val_split={val_split} add up to "
            f"{float(100 * (train + val)):g}%, so some images would be in both. Use at most 100%, such as "
            "80% and 20%"
        )
    train_part = None if train is None else (Fraction(0), train)
    val_part = None if val is None else (1 - val, Fraction(1))
    return train_part, val_part


def _parse_share(split: str, part: str) -> Fraction | None:
    """Return ``80%`` or ``0.8`` as 4/5, None for a folder or list."""
    if not re.fullmatch(r"\d+(\.\d+)?\s*%|0?\.\d+", part):
        return None
    share = Fraction(part.rstrip("% "))
    if part.endswith("%"):
        share /= 100
    if not 0 < share <= 1:
        raise ValueError(f"data.{split}_split={part}: must be more than 0% and at most 100%")
    return share


def _read_own_table(first: LabelMap, root: Path, classes: str) -> LabelMap | None:
    """Return the table of a root in the class order of the first; None if it has no other."""
    file = root / Path(classes).expanduser()
    if str(file) == first.source or not file.is_file():
        return None
    return LabelMap.read(file, "folder").reorder(first.names, first.source)


def _find_split(
    root: Path, images: Tree, masks: Tree, part: str, share: Share | None, key: str, seed: int
) -> MatchedFiles:
    ends = {"image_end": images.end, "mask_end": masks.end}
    if share is not None:
        pairs, problems = match_files(root / images.folder, root / masks.folder, **ends)
        chosen = _choose_share(len(pairs), share, seed)
        if pairs and not chosen:
            raise ValueError(f"{key}={part} of {len(pairs)} images selects none. Make it larger")
        return [pairs[index] for index in chosen], problems
    if Path(part).suffix.lower() in (".txt", ".csv"):
        return _read_list(root, images, masks, root / Path(part).expanduser())
    folders = f"{images.folder}/{part}", f"{masks.folder}/{part}"
    check_folders(str(root), folders, f"{key} is a folder, a list (.txt, .csv) or a share (80%)")
    return match_files(root / folders[0], root / folders[1], **ends)


def _choose_share(count: int, share: Share, seed: int) -> list[int]:
    """Return the indices of a part of ``count`` shuffled images, in ascending order."""
    start, end = (round(bound * count) for bound in share)
    return sorted(np.random.default_rng(seed).permutation(count)[start:end].tolist())


def _read_list(root: Path, images: Tree, masks: Tree, file: Path) -> MatchedFiles:
    """Return the pairs of a list: one image per line, with its mask if the names differ."""
    if not file.is_file():
        raise ValueError(f"{file}: no such list. It has one image per line, or image and mask")
    pairs, problems = [], []
    for number, line in enumerate(files.read_text(file).splitlines(), start=1):
        if not line.strip() or line.startswith("#") or re.fullmatch(r"image,\s*mask", line.strip(), re.I):
            continue
        try:
            image, mask = _parse_list_line(root, images, masks, line.strip())
        except (csv.Error, OSError, ValueError) as error:  # OSError, ValueError: no file can have such a name
            raise ValueError(f"{file}, line {number}: not an image and its mask ({error})") from error
        if missing := [path for path in (image, mask) if not path.is_file()]:
            text = f"line {number} names {missing[0]}, which is not there"
            problems.append(Problem("missing partner", str(file), text))
        else:
            pairs.append(Pair(image, mask, ""))
    pairs = _drop_duplicates(pairs, str(file))
    names = _name_images(
        [_make_absolute(pair.image) for pair in pairs], _make_absolute(root / images.folder), images.end
    )
    return [pair._replace(name=name) for pair, name in zip(pairs, names, strict=True)], problems


def _name_images(images: list[Path], folder: Path, end: str) -> list[str]:
    """Return paths below the image folder, or else below the common folder, without suffixes."""
    if not all(image.is_relative_to(folder) for image in images):
        folder = Path(os.path.commonpath([image.parent for image in images]))
    inside = [image.relative_to(folder) for image in images]
    names = [path.with_name(path.stem.removesuffix(end) or path.stem).as_posix() for path in inside]
    return unique_names(names, images)


def _make_absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (links stay, ``..`` goes)


def _drop_duplicates(pairs: list[Pair], source: str) -> list[Pair]:
    """Return each image once, with a warning about repeated ones; an image with two masks is refused."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        before = first.setdefault(os.path.realpath(pair.image), pair)
        if os.path.realpath(before.label) != os.path.realpath(pair.label):
            text = f"{pair.image} has two masks, {before.label} and {pair.label}"
            raise DataError("two masks", source, text, "keep one of them")
    if repeated := len(pairs) - len(first):
        log.warning("%s: %s repeated; each image is used once", source, format_count(repeated, "image"))
    return list(first.values())


def _parse_list_line(root: Path, images: Tree, masks: Tree, line: str) -> tuple[Path, Path]:
    """Return image and mask of one line, whether they exist or not."""
    delimiter = ","
    if "\t" in line:
        delimiter = "\t"
    fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    image = _resolve_file(root, images, fields[0])
    if not image.is_file() and len(line.split()) == 2:
        fields = line.split()
        image = _resolve_file(root, images, fields[0])
    if len(fields) > 1:
        return image, _resolve_file(root, masks, fields[1])
    (name,) = _name_images([_make_absolute(image)], _make_absolute(root / images.folder), images.end)
    return image, _resolve_file(root, masks, name)


def _resolve_file(root: Path, tree: Tree, name: str) -> Path:
    """Return the file of a name below the root or the folder, adding a missing end and suffix.

    A leading slash means an absolute path or the root (as in Pascal VOC); backslashes come from Windows.
    """
    name = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises where there is no such user
    tails = ("", *tree.suffixes, *(tree.end + suffix for suffix in tree.suffixes))
    for spelled in dict.fromkeys((name, name.lstrip("/"), name.replace("\\", "/").lstrip("/"))):
        for base in (root, root / tree.folder):
            for tail in tails:
                if (place := base / (spelled + tail)).is_file():
                    return place
    return root / tree.folder / name
