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
from segkit.data.filename_hints import COMMON_FOLDERS, layout_hint
from segkit.data.label_map import DataError, LabelMap, Problem
from segkit.data.listing import root_prefixes, unique_names
from segkit.data.pairs import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    MatchedFiles,
    Pair,
    Pairs,
    cache_folder,
    check_folders,
    dataset_cli_args,
    match_files,
)
from segkit.data.reading import parse_bands
from segkit.runtime import files
from segkit.runtime.text import format_count

Limits = tuple[float, float]
DEFAULTS = {"train_split": "train", "val_split": "val", "images": "images/*", "masks": "masks/*"}

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
        exclude: list of training images to leave out, as for ``Pairs.exclude_listed``.
        bands: of the images, counted from 1, in the order of the network's input; None: RGB.
        range: values of black and white, for all bands or for each, or how to compute them from the
            training images; None: 0..255.
        display: bands shown in figures, one or three; None: the first.
        fill: replaces NaN.

    Raises:
        ValueError: a folder, list, table or listed file is missing.
    """
    part = train_split if split == "train" else val_split
    shares = _parse_shares(train_split, val_split)
    tree = Tree(*_parse_pattern("images", images), *_parse_pattern("masks", masks))
    roots = [_check_root(place, tree, split) for place in ([root] if isinstance(root, str) else root)]
    table = LabelMap.read(roots[0] / Path(classes).expanduser(), "folder")
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for place, prefix in zip(roots, root_prefixes(roots), strict=True):
        found, wrong = _find_split(place, tree, part, shares, split, seed)
        own = _read_own_table(table, place, classes)
        pairs += [pair._replace(name=prefix + pair.name, table=own) for pair in found]
        problems += wrong
    if len(roots) > 1:
        pairs = _drop_duplicates(pairs, "data.root")
    names = unique_names([pair.name for pair in pairs], [pair.image for pair in pairs])
    pairs = [pair._replace(name=name) for pair, name in zip(pairs, names, strict=True)]
    settings = {"train_split": train_split, "val_split": val_split, "images": images, "masks": masks}
    settings = {key: value for key, value in settings.items() if value != DEFAULTS[key]}
    return Pairs(
        "folder",
        table,
        (pairs, problems),
        coding="any",
        on_error=on_error,
        cache=cache_folder(cache, roots[0]),
        bands=parse_bands({"bands": bands, "range": range, "display": display, "fill": fill}),
        arguments=dataset_cli_args(root, **settings),
    ).exclude_listed(exclude if split == "train" else None)


class Tree(NamedTuple):
    """Folders of images and masks below a root, and the ends of their file names."""

    images: str
    image_end: str
    masks: str
    mask_end: str


def _parse_pattern(kind: str, pattern: str) -> tuple[str, str]:
    folder, star, end = pattern.partition("*")
    if "*" in end or "/" in end or (star and folder and not folder.endswith("/")):
        raise ValueError(
            f"data.{kind}={pattern}: must be a folder and the end of its file names, such as {kind}/* or "
            f"{kind}/*_end"
        )
    return folder.rstrip("/") or ".", end


def _parse_share(part: str) -> Fraction | None:
    """Return ``80%`` or ``0.8`` as 4/5, None for anything else."""
    if percent := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", part):
        return Fraction(percent[1]) / 100
    if re.fullmatch(r"0?\.\d+", part):
        return Fraction(part)
    return None


def _parse_shares(train_split: str, val_split: str) -> tuple[Fraction | None, Fraction | None]:
    shares = _parse_share(train_split), _parse_share(val_split)
    for key, share in zip(("train_split", "val_split"), shares, strict=True):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"data.{key}={share * 100}%: must be more than 0% and at most 100%")
    train, val = shares
    if train is not None and val is not None and train + val > 1:
        raise ValueError(
            f"data.train_split={train_split} and data.val_split={val_split} add up to "
            f"{float(100 * (train + val)):g}%, so some images would be in both. Use at most 100%, such as "
            "80% and 20%"
        )
    return shares


def _check_root(place: str, tree: Tree, split: str) -> Path:
    folders = [tree.images, tree.masks]
    path = Path(place).expanduser()
    missing = [
        kind for kind, folder in zip(COMMON_FOLDERS, folders, strict=True) if not (path / folder).is_dir()
    ]
    remedy = layout_hint(path, missing, split) if missing else ""
    usual = "Put images in images/, masks with the same names in masks/; see docs/own_data.md"
    return check_folders(place, folders, remedy or usual)


def _read_own_table(first: LabelMap, root: Path, classes: str) -> LabelMap | None:
    """Return the table of a root in the class order of the first; None if it has no other."""
    file = root / Path(classes).expanduser()
    if str(file) == first.source or not file.is_file():
        return None
    own = LabelMap.read(file, "folder").reorder(first.names, first.source)
    if own == first:
        return None
    return own


def _find_split(
    root: Path, tree: Tree, part: str, shares: tuple[Fraction | None, Fraction | None], split: str, seed: int
) -> MatchedFiles:
    ends = {"image_end": tree.image_end, "mask_end": tree.mask_end}
    is_val = split != "train"
    if (share := shares[is_val]) is not None:
        pairs, problems = match_files(root / tree.images, root / tree.masks, **ends)
        order = np.random.default_rng(seed).permutation(len(pairs))
        chosen = order[: round(share * len(pairs))]
        if is_val:  # from the other end, so that shares of 100% hold each image once
            chosen = order[round((1 - share) * len(pairs)) :]
        if pairs and not len(chosen):
            raise ValueError(f"data.{split}_split={part} of {len(pairs)} images selects none. Make it larger")
        return [pairs[index] for index in sorted(chosen)], problems
    if Path(part).suffix.lower() in (".txt", ".csv"):
        return _read_list(root, tree, root / Path(part).expanduser())
    check_folders(
        str(root),
        (f"{tree.images}/{part}", f"{tree.masks}/{part}"),
        f"data.{split}_split is a folder, a list (.txt, .csv) or a share (80%)",
    )
    return match_files(root / tree.images / part, root / tree.masks / part, **ends)


def _read_list(root: Path, tree: Tree, file: Path) -> MatchedFiles:
    """Return the pairs of a list: one image per line, with its mask if the names differ."""
    if not file.is_file():
        raise ValueError(f"{file}: no such list. It has one image per line, or image and mask")
    pairs, problems = [], []
    for number, line in enumerate(files.read_text(file).splitlines(), start=1):
        if not line.strip() or line.startswith("#") or re.fullmatch(r"image,\s*mask", line.strip(), re.I):
            continue
        try:
            image, mask = _parse_list_line(root, tree, line.strip())
        except (csv.Error, OSError, ValueError) as error:  # names that no file can have
            raise ValueError(f"{file}, line {number}: not an image and its mask ({error})") from error
        if missing := [path for path in (image, mask) if not path.is_file()]:
            text = f"line {number} names {missing[0]}, which is not there"
            problems.append(Problem("missing partner", str(file), text))
        else:
            pairs.append(Pair(image, mask, ""))
    names = _name_images(root, tree, [pair.image for pair in pairs])
    named = [pair._replace(name=name) for pair, name in zip(pairs, names, strict=True)]
    return _drop_duplicates(named, str(file)), problems


def _name_images(root: Path, tree: Tree, images: list[Path]) -> list[str]:
    """Return names relative to the image folder, the root, or else the common folder of the others."""
    absolute = [Path(os.path.abspath(image)) for image in images]  # noqa: PTH100  (links stay, ``..`` goes)
    places = [Path(os.path.abspath(root / tree.images)), Path(os.path.abspath(root))]  # noqa: PTH100
    outside = [image.parent for image in absolute if not image.is_relative_to(places[1])]
    if outside:
        places.append(Path(os.path.commonpath(outside)))
    names = []
    for image in absolute:
        place = next((place for place in places if image.is_relative_to(place)), image.parent)
        inside = image.relative_to(place)
        names.append(inside.with_name(inside.stem.removesuffix(tree.image_end) or inside.stem).as_posix())
    return names


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


def _parse_list_line(root: Path, tree: Tree, line: str) -> tuple[Path, Path]:
    """Return image and mask of one line, whether they exist or not."""
    delimiter = ","
    if "\t" in line:
        delimiter = "\t"
    fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    image = _resolve_file(root, tree.images, fields[0], tree.image_end, IMAGE_SUFFIXES)
    if len(fields) == 1 and not image.is_file():  # two names separated by a space, perhaps with spaces
        words = line.split(" ")
        for cut in range(1, len(words)):
            first = _resolve_file(root, tree.images, " ".join(words[:cut]), tree.image_end, IMAGE_SUFFIXES)
            second = _resolve_file(root, tree.masks, " ".join(words[cut:]), tree.mask_end, MASK_SUFFIXES)
            if first.is_file() and second.is_file():
                return first, second
    if len(fields) > 1:
        return image, _resolve_file(root, tree.masks, fields[1], tree.mask_end, MASK_SUFFIXES)
    images = Path(os.path.abspath(root / tree.images))  # noqa: PTH100
    absolute = Path(os.path.abspath(image))  # noqa: PTH100
    if absolute.is_relative_to(images):
        inside = absolute.relative_to(images)
    else:
        inside = Path(absolute.name)
    name = inside.with_suffix("").as_posix().removesuffix(tree.image_end)
    return image, _resolve_file(root, tree.masks, name, tree.mask_end, MASK_SUFFIXES)


def _resolve_file(root: Path, folder: str, name: str, end: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file of a name below the root or the folder, adding a missing end and suffix.

    A leading slash means an absolute path or the root (as in Pascal VOC); backslashes come from Windows.
    """
    name = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises where there is no such user
    tails = ("", *suffixes, *(end + suffix for suffix in suffixes if end))
    for spelled in dict.fromkeys((name, name.lstrip("/"), name.replace("\\", "/").lstrip("/"))):
        for base in (root, root / folder):
            for tail in tails:
                if (place := base / (spelled + tail)).is_file():
                    return place
    return root / folder / name
