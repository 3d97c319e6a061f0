"""CamVid (Brostow, Fauqueur, Cipolla 2009) as the SegNet tutorial has it: 367 and 101 frames, 11 classes.

Masks hold 0..10 and 11 (void, not scored).
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
    """``images/<split>/*.jpg`` and ``annotations/<split>/*.png`` below the root."""
    part = train_split if split == "train" else val_split
    images, masks = f"images/{part}", f"annotations/{part}"
    warn_of_same(train_split, val_split, split)
    path = require(
        root, (images, masks), f"`{spoken('data', 'camvid')} prepare` makes them from the SegNet tutorial"
    )
    matched = match(path / images, path / masks)
    return Pairs(
        "camvid",
        built_in("camvid"),
        matched,
        on_error=on_error,
        cache=cache_folder(cache, path),
        where=where(root),
    )
