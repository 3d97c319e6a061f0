"""Cityscapes (Cordts et al. 2016), fine annotations: 2,975 and 500 frames of 2048x1024, 19 classes.

Masks are the official ``*_gtFine_labelIds.png``; the table maps label ids on reading, so no train-id files
are needed.
"""

from __future__ import annotations

from typing import Literal

from segkit.config import PathStr
from segkit.data.pairs import Pairs, build_pairs


def build(
    split: str,
    *,
    root: PathStr,
    train_split: str = "train",
    val_split: str = "val",
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
    exclude: PathStr | None = None,
) -> Pairs:
    """Read the official layout: ``leftImg8bit/<split>/<city>/`` and ``gtFine/...`` below the root."""
    return build_pairs(
        "cityscapes",
        ("leftImg8bit", "gtFine"),
        train_split if split == "train" else val_split,
        root=root,
        on_error=on_error,
        cache=cache,
        exclude=exclude if split == "train" else None,
        ends=("_leftImg8bit", "_gtFine_labelIds"),
    )
