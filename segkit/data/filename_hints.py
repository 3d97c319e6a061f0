"""Suggest fixes for files without a partner, and for roots without the expected folders."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Hint(NamedTuple):
    """Description of the probable partner of a file, and the fix that makes it one."""

    text: str
    remedy: str


VOC = (
    "data.images='JPEGImages/*' data.masks='SegmentationClass/*' data.{}_split=ImageSets/Segmentation/{}.txt"
)
COMMON_FOLDERS = {
    "images": ("image", "img", "imgs", "img_dir"),
    "masks": ("mask", "labels", "annotations", "ann_dir"),
}


def find_filename_hints(unmatched: Sequence[str], others: Mapping[str, Path], kind: str) -> dict[str, Hint]:
    """Return hints by name, for files whose partner in the other tree is named slightly differently.

    ``others`` has the unmatched files of that tree by name; ``kind`` is ``mask`` or ``image``.
    """
    plain = {_normalize_name(name): name for name in others}
    order, hints = sorted(others), {}
    for name in unmatched:
        if other := plain.get(_normalize_name(name)):
            difference = "capitalization"
            if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
                difference = "Unicode encoding (NFC and NFD)"
            hints[name] = Hint(f"{others[other]} differs only in {difference}", "rename one of them")
        elif other := _find_longer_name(name, order):
            end = other[len(name) :]
            hints[name] = Hint(
                f"{others[other]} ends in {end}",
                f"set data.{kind}s='{kind}s/*{end}' (data=folder), or give both the same name",
            )
    return hints


def wrong_format_hint(file: Path) -> Hint:
    """Return the hint for a mask that has the right name and the wrong format."""
    suffix = file.suffix.lower()
    reason = f"masks cannot be {suffix}"
    if suffix in (".jpg", ".jpeg"):
        reason = "JPEG changes ids at every edge"
    return Hint(f"{file} is not used: {reason}", "save the mask again from its source as PNG")


def layout_hint(root: Path, missing: Sequence[str], split: str) -> str:
    """Return the settings for a known foreign layout (VOC, ``img/``, ``labels/``); empty if none matches."""
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return f"this looks like Pascal VOC: {VOC.format(split, split)}"
    settings = []
    for folder in missing:
        near = [name for name in COMMON_FOLDERS.get(folder, ()) if (root / name).is_dir()]
        settings += [f"data.{folder}='{name}/*'" for name in near[:1]]
    if not settings:
        return ""
    return f"other folders exist: {' '.join(settings)}"


def _normalize_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _find_longer_name(name: str, order: Sequence[str]) -> str | None:
    """Return the name in sorted ``order`` that adds a separator and a suffix, as ``a_mask`` does to ``a``."""
    for other in order[bisect_left(order, name) :]:
        if not other.startswith(name):
            return None
        if re.fullmatch(r"[ _.-][^/]+", other[len(name) :]):
            return other
    return None
