"""Hints for files without a partner, and for roots without the usual folders."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Hint(NamedTuple):
    """A file that is probably the missing partner, and the fix that makes it one."""

    text: str
    remedy: str


VOC = (
    "data.images='JPEGImages/*' data.masks='SegmentationClass/*' data.{}_split=ImageSets/Segmentation/{}.txt"
)
COMMON_FOLDERS = {
    "images": ("image", "img", "imgs", "img_dir"),
    "masks": ("mask", "labels", "annotations", "ann_dir"),
}


def find_filename_hints(alone: Sequence[str], others: Mapping[str, Path], kind: str) -> dict[str, Hint]:
    """Return hints for names that have no partner.

    Args:
        alone: relative paths without suffix.
        others: the files of the other tree that have no partner either, by name.
        kind: of the other tree, ``mask`` or ``image``.
    """
    plain = {_normalize_name(name): name for name in others}
    order, hints = sorted(others), {}
    for name in alone:
        if other := plain.get(_normalize_name(name)):
            how = "in capital letters"
            if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
                how = "in how its letters are encoded (Unicode NFC and NFD)"
            hints[name] = Hint(f"{others[other]} differs only {how}", "rename one of them")
        elif other := _find_longer_name(name, order):
            end = other[len(name) :]
            hints[name] = Hint(
                f"{others[other]} has {end} at its end",
                f"set data.{kind}s='{kind}s/*{end}' (data=folder), or name both alike",
            )
    return hints


def wrong_format_hint(file: Path) -> Hint:
    """Return the hint for a mask that has the right name and the wrong format."""
    suffix = file.suffix.lower()
    why = "JPEG changes ids at every edge" if suffix in (".jpg", ".jpeg") else f"masks are no {suffix}"
    return Hint(f"{file} cannot be it: {why}", "save the mask again from its source as PNG")


def layout_hint(root: Path, missing: Sequence[str], split: str) -> str:
    """Return the settings for a known foreign layout (VOC, ``img/``, ``labels/``); empty if none matches."""
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return f"this looks like Pascal VOC: {VOC.format(split, split)}"
    words = []
    for folder in missing:
        near = [name for name in COMMON_FOLDERS.get(folder, ()) if (root / name).is_dir()]
        words += [f"data.{folder}='{near[0]}/*'"] if near else []
    return f"the folders that are there: {' '.join(words)}" if words else ""


def _normalize_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _find_longer_name(name: str, order: Sequence[str]) -> str | None:
    """Return the other name that continues with a word of its own, as ``a_mask`` does for ``a``."""
    for other in order[bisect_left(order, name) :]:
        if not other.startswith(name):
            return None
        if re.fullmatch(r"[ _.-][^/]+", other[len(name) :]):
            return other
    return None
