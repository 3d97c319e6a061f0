"""One's own images and masks: two trees of files, or lists of them, and a class table.

Below the root lie ``images/``, ``masks/`` and ``classes.csv``. A split is the name of a folder in both trees,
the name of a list file (``.txt``, ``.csv``), or a share such as ``80%``. Masks hold ids (grey or palette PNG)
or colours.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.data.labels import LabelTable, Problem
from segkit.data.pairs import IMAGES, MASKS, Found, Pair, Pairs, cache_folder, match, require
from segkit.settings import NonNegativeInt


def build(
    split: str,
    *,
    root: str | list[str],
    classes: str = "classes.csv",
    train_split: str = "train",
    val_split: str = "val",
    seed: NonNegativeInt = 0,
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
) -> Pairs:
    """Images and masks of a split.

    Args:
        split: ``train`` or ``val``.
        root: folder with ``images/`` and ``masks/``; of several, their samples stand one after another.
        classes: the class table, below the (first) root or a path of its own.
        train_split: folder name, list file, or share (``80%``).
        val_split: the same; a share is taken from the other end, so that 80% and 20% do not overlap.
        seed: of the shuffling before a share is taken.
        on_error: as in ``Pairs``.
        cache: ``disk`` keeps decoded copies.

    Raises:
        ValueError: a folder, list or table is not there, or the list names files that are not.
    """
    roots = [
        require(
            place,
            ("images", "masks"),
            "put images into the one, masks of the same names into the other; see docs/own_data.md",
        )
        for place in ([root] if isinstance(root, str) else root)
    ]
    part = train_split if split == "train" else val_split
    pairs, problems = [], []
    for place in roots:
        found, wrong = _split(place, part, split, seed)
        prefix = f"{place.name}/" if len(roots) > 1 else ""
        pairs += [pair._replace(name=prefix + pair.name) for pair in found]
        problems += wrong
    table = LabelTable.read(roots[0] / classes, "folder")
    return Pairs(
        "folder",
        table,
        (pairs, problems),
        coding="any",
        on_error=on_error,
        cache=cache_folder(cache, roots[0]),
    )


def _split(root: Path, part: str, split: str, seed: int) -> Found:
    if re.fullmatch(r"0?\.\d+", part):  # 0.8 is 80%
        part = f"{100 * float(part):g}%"
    if share := re.fullmatch(r"(\d+(?:\.\d+)?)%", part):
        pairs, problems = match(root / "images", root / "masks")
        order = np.random.default_rng(seed).permutation(len(pairs))
        count = round(len(pairs) * float(share[1]) / 100)
        chosen = order[:count] if split == "train" else order[len(pairs) - count :]
        return [pairs[index] for index in sorted(chosen)], problems
    if Path(part).suffix in (".txt", ".csv"):
        return _from_list(root, root / part)
    require(
        str(root),
        (f"images/{part}", f"masks/{part}"),
        f"data.{split}_split is a folder, a list (.txt, .csv) or a share (80%)",
    )
    return match(root / "images" / part, root / "masks" / part)


def _from_list(root: Path, file: Path) -> Found:
    """The pairs that a list names: an image a line, its mask after a comma, tab or space if names differ."""
    if not file.is_file():
        raise ValueError(f"there is no list {file}; it holds one image a line, or image and mask")
    pairs, problems = [], []
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.startswith("#") or re.fullmatch(r"image,\s*mask", line.strip()):
            continue
        image, mask = _line(root, line.strip())
        name = image.relative_to(root / "images" if image.is_relative_to(root / "images") else root)
        pair = Pair(image, mask, name.with_suffix("").as_posix())
        if missing := [path for path in pair[:2] if not path.is_file()]:
            problems.append(
                Problem("missing partner", str(file), f"it names {missing[0]}, which is not there")
            )
        else:
            pairs.append(pair)
    return pairs, problems


def _line(root: Path, line: str) -> tuple[Path, Path]:
    """Image and mask of one line, there or not."""
    fields = next(csv.reader([line], delimiter="\t" if "\t" in line else ",", skipinitialspace=True))
    image = _find(root, "images", fields[0], IMAGES)
    if len(fields) == 1 and not image.is_file():  # two names with a space between, and perhaps spaces in them
        words = line.split(" ")
        for cut in range(1, len(words)):
            parts = " ".join(words[:cut]), " ".join(words[cut:])
            both = _find(root, "images", parts[0], IMAGES), _find(root, "masks", parts[1], MASKS)
            if both[0].is_file() and both[1].is_file():
                return both
    if len(fields) > 1:
        return image, _find(root, "masks", fields[1], MASKS)
    inside = image.relative_to(root / "images") if image.is_relative_to(root / "images") else Path(image.name)
    return image, _find(root, "masks", inside.with_suffix("").as_posix(), MASKS)


def _find(root: Path, folder: str, name: str, suffixes: tuple[str, ...]) -> Path:
    """The file of that name below the root or the folder in it, with one of the suffixes if it has none."""
    places = [base / (name + suffix) for base in (root, root / folder) for suffix in ("", *suffixes)]
    return next((place for place in places if place.is_file()), root / folder / name)
