"""Cityscapes (Cordts et al. 2016), fine annotations: 2,975 and 500 frames of 2048x1024, 19 classes.

Masks are the official ``*_gtFine_labelIds.png``; the table maps label ids on reading, so no train-id files
are needed.
"""

from __future__ import annotations

from typing import Literal

from segkit.data.labels import built_in
from segkit.data.pairs import Pairs, cache_folder, match, require, warn_of_same, where
from segkit.settings import PathStr
from segkit.system.commands import spoken


def build(
    split: str,
    *,
    root: PathStr,
    train_split: str = "train",
    val_split: str = "val",
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
) -> Pairs:
    """The official layout: ``leftImg8bit/<split>/<city>/`` and ``gtFine/<split>/<city>/`` below the root."""
    part = train_split if split == "train" else val_split
    images, masks = f"leftImg8bit/{part}", f"gtFine/{part}"
    warn_of_same(train_split, val_split, split)
    path = require(
        root, (images, masks), f"`{spoken('data', 'cityscapes')} prepare` unpacks the official zip files"
    )
    matched = match(path / images, path / masks, image_end="_leftImg8bit", mask_end="_gtFine_labelIds")
    return Pairs(
        "cityscapes",
        built_in("cityscapes"),
        matched,
        on_error=on_error,
        cache=cache_folder(cache, path),
        where=where(root),
    )
