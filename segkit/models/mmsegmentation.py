"""Compatibility of mmsegmentation's checkpoints, whose tensors do not say how the network computes.

Its checkpoints keep the composed settings as text (``meta.config``); where they do not, the file's name is
parsed (``deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

NUMBERS = r"=\s*[(\[]([\d,\s]+)[)\]]"  # a tuple or a list in Python's words
HEADS = {  # a part that only this head has, most special first
    "c1_bottleneck.": "DeepLabV3+",
    "fpn_bottleneck.": "UPerNet",
    "psp_modules.": "PSPNet",
    "aspp_modules.": "DeepLabV3",
    "convs.": "FCN (or built on it)",
}


OURS = {"DeepLabV3": "deeplabv3_mmseg", "UPerNet": "upernet"}  # heads whose files load whole


class MmsegTraining(NamedTuple):
    """Settings of a network of mmsegmentation; None where neither its settings nor its name have them."""

    align_corners: bool = False  # in all of its settings but those of 769x769
    output_stride: int | None = None
    multi_grid: tuple[int, ...] | None = None  # dilation of each block of the last stage


def parse_training(config: str, name: str) -> MmsegTraining:
    """Parse the settings in a checkpoint, or where there are none, the file's name."""
    if config:
        align = re.search(r"align_corners\s*=\s*(True|False)", config)
        strides = re.search(r"\bstrides" + NUMBERS, config)
        grid = re.search(r"\bmulti_grid" + NUMBERS, config)
        return MmsegTraining(
            align is not None and align[1] == "True",
            4 * math.prod(_integers(strides[1])) if strides else None,
            tuple(_integers(grid[1])) if grid else None,
        )
    stride, grid = re.search(r"-d(8|16|32)[-_]", name), re.search(r"-mg(\d+)[-_]", name)
    return MmsegTraining(
        "769x769" in name,
        int(stride[1]) if stride else None,
        tuple(map(int, grid[1])) if grid else None,
    )


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.replace(",", " ").split()]


def detect_head(names: Iterable[str]) -> str:
    """Return the name of the head that tensors with these names belong to."""
    own = [name.removeprefix("decode_head.") for name in names if name.startswith("decode_head.")]
    for part, head in HEADS.items():
        if any(name.startswith(part) for name in own):
            return head
    return "another"


def check_compatible(model: Segmenter, config: str, path: Path, names: Iterable[str]) -> None:
    """Make sure that a whole model is the one that was trained, where the tensors alone do not show it.

    Raises:
        ValueError: it is not; every setting to change is named.
    """
    kind = detect_head(names)
    if kind not in OURS:
        raise ValueError(
            f"{path}: the head of this file is {kind} of mmsegmentation, which is not ours of that name; "
            f"only its {' and '.join(OURS)} can be loaded whole. "
            "model.backbone.weights=FILE loads the backbone alone"
        )
    theirs = parse_training(config, path.name)
    ours = {
        "model.align_corners": model.align_corners,
        "model.backbone.output_stride": getattr(model.backbone, "output_stride", None),
        "model.backbone.multi_grid": getattr(model.backbone, "multi_grid", None),
    }
    change = [
        f"{key}={format_override(value)}"
        for (key, own), value in zip(ours.items(), theirs, strict=True)
        if own != value and not (value is None and key.endswith("stride"))
    ]
    if change:
        told = "its settings" if config else "its name"
        raise ValueError(
            f"{path}: trained by mmsegmentation with another network, by {told}; choose model/head="
            f"{OURS[kind]} {' '.join(change)}"
        )


def format_override(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower()
