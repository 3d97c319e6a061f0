"""CamVid (Brostow, Fauqueur, Cipolla 2009) as the SegNet tutorial has it: 367 and 101 frames, 11 classes.

Masks hold 0..10 and 11 (void, not scored).
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
    """Read ``images/<split>/*.jpg`` and ``annotations/<split>/*.png`` below the root."""
    return build_pairs(
        "camvid",
        ("images", "annotations"),
        train_split if split == "train" else val_split,
        root=root,
        on_error=on_error,
        cache=cache,
        exclude=exclude if split == "train" else None,
    )
