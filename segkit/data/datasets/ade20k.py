"""ADE20K scene parsing (Zhou et al. 2017): 20,210 training and 2,000 validation images, 150 classes.

Masks hold 0 (other, not scored) and 1..150.
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
    train_split: str = "training",
    val_split: str = "validation",
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
) -> Pairs:
    """The official layout: ``images/<split>/*.jpg`` and ``annotations/<split>/*.png`` below the root."""
    part = train_split if split == "train" else val_split
    images, masks = f"images/{part}", f"annotations/{part}"
    warn_of_same(train_split, val_split, split)
    path = require(
        root,
        (images, masks),
        f"`{spoken('data', 'ade20k')} prepare` downloads ADEChallengeData2016 and unpacks it",
    )
    matched = match(path / images, path / masks)
    return Pairs(
        "ade20k",
        built_in("ade20k"),
        matched,
        on_error=on_error,
        cache=cache_folder(cache, path),
        where=where(root),
    )
