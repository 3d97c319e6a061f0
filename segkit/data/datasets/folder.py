"""One's own images and masks: two trees of files, or lists of them, and a class table.

Below the root lie ``images/``, ``masks/`` (or folders of other names) and ``classes.csv``. A split is the
name of a folder in both trees, the name of a list file (``.txt``, ``.csv``), or a share such as ``80%``.
Masks hold ids (grey or palette PNG) or colours.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segkit.data import misses
from segkit.data.bands import of_settings
from segkit.data.labels import LabelTable, Problem
from segkit.data.misses import USUAL
from segkit.data.pairs import (
    IMAGES,
    MASKS,
    Found,
    Pair,
    Pairs,
    cache_folder,
    match,
    require,
    warn_of_same,
    where,
)
from segkit.settings import NonNegativeInt, PathStr, PositiveInt

SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
Limits = tuple[float, float]
DEFAULTS = {"train_split": "train", "val_split": "val", "images": "images/*", "masks": "masks/*"}


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
    bands: tuple[PositiveInt, ...] | None = None,
    range: Limits | tuple[Limits, ...] | Literal["percentile", "minmax"] | None = None,
    display: tuple[PositiveInt, ...] | None = None,
    fill: float | None = None,
) -> Pairs:
    """Images and masks of a split.

    Args:
        split: ``train`` or ``val``.
        root: folder with ``images/`` and ``masks/``; of several, their samples stand one after another.
        images: folder of the images and, after ``*``, which stands for the name, how their names end.
        masks: the same of the masks: with ``masks/*_mask``, ``a_mask.png`` is the mask of ``a.jpg``.
        classes: the class table, below the (first) root or a path of its own.
        train_split: folder name, list file, or share (``80%``).
        val_split: the same; a share is taken from the other end, so that 80% and 20% do not overlap.
        seed: of the shuffling before a share is taken.
        on_error: as in ``Pairs``.
        cache: ``disk`` keeps decoded copies.
        bands: of the images, counted from 1, in the order that the network gets them; None: RGB.
        range: the values of black and white, of all bands or of each; a word lets the images of training
            say them; None: 0..255.
        display: the bands that people see, one or three of them; None: the first.
        fill: what stands in for NaN.

    Raises:
        ValueError: a folder, list or table is not there, or the list names files that are not.
    """
    train_split, val_split = _as_percent(train_split), _as_percent(val_split)
    part = train_split if split == "train" else val_split
    _check_splits(train_split, val_split, split)
    tree = Tree(*_folder_and_end("images", images), *_folder_and_end("masks", masks))
    roots = [_root(place, tree, split) for place in ([root] if isinstance(root, str) else root)]
    pairs, problems = [], []
    for place in roots:
        matched, wrong = _split(place, tree, part, split, seed)
        prefix = f"{place.name}/" if len(roots) > 1 else ""
        pairs += [pair._replace(name=prefix + pair.name) for pair in matched]
        problems += wrong
    table = LabelTable.read(roots[0] / Path(classes).expanduser(), "folder")
    typed = {"train_split": train_split, "val_split": val_split, "images": images, "masks": masks}
    typed = {key: value for key, value in typed.items() if value != DEFAULTS[key]}
    return Pairs(
        "folder",
        table,
        (pairs, problems),
        coding="any",
        on_error=on_error,
        cache=cache_folder(cache, roots[0]),
        bands=of_settings({"bands": bands, "range": range, "display": display, "fill": fill}),
        where=where(root, **typed),
    )


class Tree(NamedTuple):
    """Folders of images and masks below a root, and how the names in them end."""

    images: str
    image_end: str
    masks: str
    mask_end: str


def _folder_and_end(kind: str, pattern: str) -> tuple[str, str]:
    folder, star, end = pattern.partition("*")
    if "*" in end or "/" in end or (star and folder and not folder.endswith("/")):
        raise ValueError(
            f"data.{kind}={pattern}: a folder is meant, and how names in it end, such as {kind}/* or "
            f"{kind}/*_end"
        )
    return folder.rstrip("/") or ".", end


def _as_percent(part: str) -> str:
    """``0.8`` as ``80%``; anything else as it is."""
    return f"{100 * float(part):g}%" if re.fullmatch(r"0?\.\d+", part) else part


def _check_splits(train_split: str, val_split: str, split: str) -> None:
    """Refuse shares that cannot be meant, and tell of a validation on what was trained on."""
    shares = [SHARE.fullmatch(part) for part in (train_split, val_split)]
    for key, share in zip(("train_split", "val_split"), shares, strict=True):
        if share and not 0 < float(share[1]) <= 100:
            raise ValueError(f"data.{key}={share[0]}: a share is more than 0% and at most 100%")
    if not all(shares):
        warn_of_same(train_split, val_split, split)
    elif (total := sum(float(share[1]) for share in shares if share)) > 100:
        raise ValueError(
            f"data.train_split={train_split} and data.val_split={val_split} come to {total:g}%, so that "
            "images would be trained on and scored; together they are at most 100%, such as "
            f"data.train_split={100 - float(val_split[:-1]):g}%"
        )


def _root(place: str, tree: Tree, split: str) -> Path:
    folders = [tree.images, tree.masks]
    path = Path(place).expanduser()
    missing = [kind for kind, folder in zip(USUAL, folders, strict=True) if not (path / folder).is_dir()]
    remedy = misses.layout(path, missing, split) if missing else ""
    usual = "put images into the one, masks of the same names into the other; see docs/own_data.md"
    return require(place, folders, remedy or usual)


def _split(root: Path, tree: Tree, part: str, split: str, seed: int) -> Found:
    ends = {"image_end": tree.image_end, "mask_end": tree.mask_end}
    if share := SHARE.fullmatch(part):
        pairs, problems = match(root / tree.images, root / tree.masks, **ends)
        order = np.random.default_rng(seed).permutation(len(pairs))
        count = round(len(pairs) * float(share[1]) / 100)
        if pairs and not count:
            raise ValueError(f"data.{split}_split={part} of {len(pairs)} images is none; make it larger")
        chosen = order[:count] if split == "train" else order[len(pairs) - count :]
        return [pairs[index] for index in sorted(chosen)], problems
    if Path(part).suffix in (".txt", ".csv"):
        return _from_list(root, tree, root / Path(part).expanduser())
    require(
        str(root),
        (f"{tree.images}/{part}", f"{tree.masks}/{part}"),
        f"data.{split}_split is a folder, a list (.txt, .csv) or a share (80%)",
    )
    return match(root / tree.images / part, root / tree.masks / part, **ends)


def _from_list(root: Path, tree: Tree, file: Path) -> Found:
    """The pairs that a list names: an image a line, its mask after a comma, tab or space if names differ."""
    if not file.is_file():
        raise ValueError(f"there is no list {file}; it holds one image a line, or image and mask")
    pairs, problems = [], []
    images = root / tree.images
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.startswith("#") or re.fullmatch(r"image,\s*mask", line.strip()):
            continue
        image, mask = _line(root, tree, line.strip())
        name = image.relative_to(images if image.is_relative_to(images) else root)
        pair = Pair(image, mask, name.with_suffix("").as_posix())
        if missing := [path for path in pair[:2] if not path.is_file()]:
            problems.append(
                Problem("missing partner", str(file), f"it names {missing[0]}, which is not there")
            )
        else:
            pairs.append(pair)
    return pairs, problems


def _line(root: Path, tree: Tree, line: str) -> tuple[Path, Path]:
    """Image and mask of one line, there or not."""
    fields = next(csv.reader([line], delimiter="\t" if "\t" in line else ",", skipinitialspace=True))
    image = _find(root, tree.images, fields[0], tree.image_end, IMAGES)
    if len(fields) == 1 and not image.is_file():  # two names with a space between, and perhaps spaces in them
        words = line.split(" ")
        for cut in range(1, len(words)):
            parts = " ".join(words[:cut]), " ".join(words[cut:])
            both = (
                _find(root, tree.images, parts[0], tree.image_end, IMAGES),
                _find(root, tree.masks, parts[1], tree.mask_end, MASKS),
            )
            if both[0].is_file() and both[1].is_file():
                return both
    if len(fields) > 1:
        return image, _find(root, tree.masks, fields[1], tree.mask_end, MASKS)
    images = root / tree.images
    inside = image.relative_to(images) if image.is_relative_to(images) else Path(image.name)
    name = inside.with_suffix("").as_posix().removesuffix(tree.image_end)
    return image, _find(root, tree.masks, name, tree.mask_end, MASKS)


def _find(root: Path, folder: str, name: str, end: str, suffixes: tuple[str, ...]) -> Path:
    """The file of that name below the root or the folder in it, with end and suffix if need be."""
    tails = ("", *suffixes, *(end + suffix for suffix in suffixes if end))
    places = [base / (name + tail) for base in (root, root / folder) for tail in tails]
    return next((place for place in places if place.is_file()), root / folder / name)
