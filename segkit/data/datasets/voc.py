"""Pascal VOC 2012 segmentation (Everingham et al. 2015): 20 classes and background.

Masks hold 0 (background), 1..20 and 255 (object borders, not scored). The augmented training list
(``trainaug``, 10,582 images) adds masks of SBD (Hariharan et al. 2011) in ``SegmentationClassAug``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segkit.config import PathStr
from segkit.data.label_map import Problem, load_builtin_label_map
from segkit.data.pairs import MatchedFiles, Pair, Pairs, check_folders
from segkit.runtime.commands import cli_command

FOLDERS = ("JPEGImages", "SegmentationClass")
LISTS = "ImageSets/Segmentation"


def build(
    split: str,
    *,
    root: str,
    train_split: str = "train",
    val_split: str = "val",
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
    exclude: PathStr | None = None,
) -> Pairs:
    """Build the split that ``ImageSets/Segmentation/<split>.txt`` lists, in the official layout."""
    part = train_split if split == "train" else val_split
    prepare = f"`{cli_command('data', 'voc')} prepare`"
    path = check_folders(root, FOLDERS, f"{prepare} downloads VOC 2012 and unpacks it")
    list_file = path / LISTS / f"{part}.txt"
    if not list_file.is_file():
        raise ValueError(
            f"data.{split}_split={part}: there is no {list_file}. Choose another list of {LISTS}; "
            f"{prepare} with --sbd writes trainaug"
        )
    return Pairs(
        "voc",
        load_builtin_label_map("voc"),
        find_pairs(path, list_file),
        root=root,
        coding="any",
        on_error=on_error,
        cache=cache,
        exclude=exclude if split == "train" else None,
        settings={"train_split": train_split, "val_split": val_split},
    )


def find_pairs(root: Path, list_file: Path) -> MatchedFiles:
    """Return the pairs that a list names; an official mask is preferred to one of SegmentationClassAug."""
    pairs, problems = [], []
    for name in list_file.read_text(encoding="utf-8").split():
        image = root / "JPEGImages" / f"{name}.jpg"
        mask = root / "SegmentationClass" / f"{name}.png"
        augmented = root / "SegmentationClassAug" / f"{name}.png"
        if augmented.is_file() and not mask.is_file():
            mask = augmented
        missing = [file for file in (image, mask) if not file.is_file()]
        if missing:
            problems.append(Problem("missing partner", str(list_file), f"{missing[0]} is missing"))
        else:
            pairs.append(Pair(image, mask, name))
    return pairs, problems
