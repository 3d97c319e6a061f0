"""ADE20K scene parsing (Zhou et al. 2017): 20,210 training and 2,000 validation images, 150 classes.

Masks hold 0 (other, not scored) and 1..150.
"""

from __future__ import annotations

from typing import Literal

from segkit.config import PathStr
from segkit.data.pairs import Pairs, build_pairs


def build(
    split: str,
    *,
    root: PathStr,
    train_split: str = "training",
    val_split: str = "validation",
    on_error: Literal["stop", "skip"] = "stop",
    cache: Literal["none", "disk"] = "none",
    exclude: PathStr | None = None,
) -> Pairs:
    """Read the official layout: ``images/<split>/*.jpg`` and ``annotations/<split>/*.png`` below the root."""
    return build_pairs(
        "ade20k",
        ("images", "annotations"),
        train_split if split == "train" else val_split,
        root=root,
        on_error=on_error,
        cache=cache,
        exclude=exclude if split == "train" else None,
    )
