"""What a checkpoint of mmsegmentation tells about its training, where other numbers hide under equal names.

Its checkpoints keep the composed settings as text (``meta.config``); where they do not, the file's name tells
(``deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes``).
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


class Training(NamedTuple):
    """How it was trained; None where neither settings nor name tell."""

    align_corners: bool = False  # in all of its settings but those of 769x769
    output_stride: int | None = None
    multi_grid: tuple[int, ...] | None = None  # dilation of each block of the last stage


def training(config: str, name: str) -> Training:
    """From the settings in a checkpoint, or where there are none, from the file's name."""
    if config:
        align = re.search(r"align_corners\s*=\s*(True|False)", config)
        strides = re.search(r"\bstrides" + NUMBERS, config)
        grid = re.search(r"\bmulti_grid" + NUMBERS, config)
        return Training(
            align is not None and align[1] == "True",
            4 * math.prod(_integers(strides[1])) if strides else None,
            tuple(_integers(grid[1])) if grid else None,
        )
    stride, grid = re.search(r"-d(8|16|32)[-_]", name), re.search(r"-mg(\d+)[-_]", name)
    return Training(
        "769x769" in name,
        int(stride[1]) if stride else None,
        tuple(map(int, grid[1])) if grid else None,
    )


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.replace(",", " ").split()]


def head(names: Iterable[str]) -> str:
    """Which of its heads the names of the tensors are of."""
    own = [name.removeprefix("decode_head.") for name in names if name.startswith("decode_head.")]
    for part, word in HEADS.items():
        if any(name.startswith(part) for name in own):
            return word
    return "another"


def refuse_another(model: Segmenter, config: str, path: Path, names: Iterable[str]) -> None:
    """Make sure that a whole model is the one that was trained, where the tensors alone do not tell.

    Raises:
        ValueError: it is not; every setting to change is named.
    """
    kind = head(names)
    if kind not in OURS:
        raise ValueError(
            f"{path}: the head of this file is {kind} of mmsegmentation, which is not ours of that name; "
            f"only its {' and '.join(OURS)} can be loaded whole. "
            "model.backbone.weights=FILE loads the backbone alone"
        )
    theirs = training(config, path.name)
    ours = {
        "model.align_corners": model.align_corners,
        "model.backbone.output_stride": getattr(model.backbone, "output_stride", None),
        "model.backbone.multi_grid": getattr(model.backbone, "multi_grid", None),
    }
    change = [
        f"{key}={word(value)}"
        for (key, own), value in zip(ours.items(), theirs, strict=True)
        if own != value and not (value is None and key.endswith("stride"))
    ]
    if change:
        told = "its settings" if config else "its name"
        raise ValueError(
            f"{path}: trained by mmsegmentation with another network, by {told}; choose model/head="
            f"{OURS[kind]} {' '.join(change)}"
        )


def word(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower()
