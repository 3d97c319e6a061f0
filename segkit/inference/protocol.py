"""A protocol is everything that decides a score besides the network and the pictures.

``encoding`` is the procedure behind the published ResNeSt figures, ``mmseg`` that of mmsegmentation;
``whole`` and ``sliding`` score the picture at its own size, in one piece or in windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from segkit.settings import PositiveFloat, PositiveInt, Size

HOW_TO_COMPUTE = ("batch_pixels", "memory")  # settings that move no score beyond rounding


@dataclass(frozen=True)
class Protocol:
    """How pictures become class ids, and ids a score; made by ``protocol``, which explains the fields."""

    name: str
    scales: tuple[float, ...]
    resize: Literal["factor", "long_side"]
    base_size: int | None
    flip: bool
    window: tuple[int, int] | None
    stride: tuple[int, int] | None
    border: Literal["shift", "pad"]
    merge: Literal["softmax", "logits", "exp"]
    align_corners: bool
    absent: Literal["zero", "exclude", "labels"]
    boundary: bool
    precision: Literal["float32", "bf16"]
    batch_pixels: int | None
    memory: float | None

    def scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Size of a picture at a scale."""
        if self.resize == "factor":
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        assert self.base_size is not None
        long = math.ceil(self.base_size * scale)
        if height > width:
            return long, max(1, int(width * long / height + 0.5))
        return max(1, int(height * long / width + 0.5)), long

    def stated(self) -> dict[str, Any]:
        """What has to stand beside a score, as plain values for a result file."""
        return {key: value for key, value in asdict(self).items() if key not in HOW_TO_COMPUTE}

    def __str__(self) -> str:
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        words = [
            f"scales {scales}" + (f" of long side {self.base_size}" if self.resize == "long_side" else "")
        ]
        words += ["flip"] if self.flip else []
        if self.window and self.stride:
            window, stride = ("x".join(str(side) for side in pair) for pair in (self.window, self.stride))
            words.append(f"window {window} every {stride}, {self.border} at the border")
        words += [f"merge {self.merge}", f"absent classes: {self.absent}", self.precision]
        return f"{self.name} ({', '.join(words)})"


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def protocol(  # noqa: PLR0913 - one keyword for each key of conf/evaluation
    *,
    name: str = "whole",
    scales: tuple[PositiveFloat, ...] = (1.0,),
    resize: Literal["factor", "long_side"] = "factor",
    base_size: PositiveInt | None = None,
    flip: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
    border: Literal["shift", "pad"] = "shift",
    merge: Literal["softmax", "logits", "exp"] = "softmax",
    align_corners: bool = True,
    absent: Literal["zero", "exclude", "labels"] = "zero",
    boundary: bool = False,
    precision: Literal["float32", "bf16"] = "float32",
    batch_pixels: PositiveInt | None = None,
    memory: Literal["auto"] | PositiveFloat = "auto",
) -> Protocol:
    """Check the settings of an evaluation and put them together.

    Args:
        name: printed beside the score.
        scales: the picture is scored at each of them and the results are merged.
        resize: a scale multiplies the picture's own size (``factor``), or makes its long side
            ceil(``base_size`` * scale) (``long_side``).
        base_size: long side at scale 1, in pixels, for ``long_side``.
        flip: score the mirrored picture too.
        window: side, or height and width, of the window that slides over the picture; null takes it whole.
        stride: step of the window; null is two thirds of it.
        border: the last window of a row is shifted back inside (``shift``), or stays, and what is missing of
            it is black (``pad``). Pictures smaller than the window are cut or padded likewise.
        merge: what is averaged over scales and mirrored copies: ``softmax`` probabilities, or ``logits``; or
            ``exp`` of the sum of a window's logits and those of its mirrored copy, averaged over windows.
        align_corners: of resizing pictures and merging scales; the network has its own setting.
        absent: what a class counts in a mean that nobody labelled or predicted; see ``segkit.metrics``.
        boundary: measure Boundary IoU too.
        precision: of the network; everything after it is float32.
        batch_pixels: windows and mirrored copies of one shape are run together up to this many pixels;
            null suits the device.
        memory: GiB that inference may take beside network and picture, to which it fits batches and strips
            (as far as one window allows).

    Raises:
        ValueError: the settings contradict each other.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"evaluation.scales={list(scales)}: give at least one scale, all of them above 0")
    if resize == "long_side" and base_size is None:
        raise ValueError("evaluation.resize=long_side needs evaluation.base_size, the long side at scale 1")
    size, step = _pair(window), _pair(stride)
    if size is None and step is not None:
        raise ValueError(f"evaluation.stride={stride} without evaluation.window: give both or neither")
    if size and step is None:
        step = max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3)
    if size and step and (step[0] > size[0] or step[1] > size[1]):
        raise ValueError(
            f"evaluation.window={window} is smaller than evaluation.stride={stride}: no window would see the "
            "pixels between two windows; make the stride at most the window"
        )
    return Protocol(
        name=name,
        scales=tuple(float(scale) for scale in scales),
        resize=resize,
        base_size=base_size,
        flip=flip,
        window=size,
        stride=step,
        border=border,
        merge=merge,
        align_corners=align_corners,
        absent=absent,
        boundary=boundary,
        precision=precision,
        batch_pixels=batch_pixels,
        memory=None if memory == "auto" else float(memory),
    )
