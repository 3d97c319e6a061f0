"""A protocol is everything that decides a score besides the network and the images.

``encoding`` is the procedure behind the published ResNeSt figures, ``mmseg``, ``mmseg_ms`` and
``mmseg_slide`` are those of mmsegmentation; ``whole`` and ``sliding`` score the image at its own size, in
one piece or in windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from segkit.config import Gibibytes, PositiveInt, Range, Side, Size
from segkit.runtime.precision import supports_bf16

if TYPE_CHECKING:
    import torch

HOW_TO_COMPUTE = ("batch_pixels", "memory")  # settings that move no score beyond rounding


@dataclass(frozen=True)
class Protocol:
    """How images become class ids, and ids a score: the settings of an evaluation, checked.

    Sizes given as one side are stored as pairs, and a window's stride as what null means.

    Attributes:
        name: printed beside the score.
        scales: the image is scored at each of them and the results are merged.
        resize: a scale multiplies the image's own size (``factor``, rounded as mmcv does), makes its long
            side ceil(``base_size`` * scale) (``long_side``), or multiplies the ``bounds`` that it is to fit.
        base_size: long side at scale 1, in pixels, for ``long_side``.
        bounds: at scale 1, for ``bounds``: the most that long and short side may have, in any order.
        resize_as: images are normalized, then resized (``float``), strip by strip; or resized as OpenCV
            resizes ``uint8``, then normalized, as mmsegmentation does. That holds the whole image at every
            scale, 3 bytes a pixel.
        flip: score the mirrored image too.
        window: side, or height and width, of the window that slides over the image; null takes it whole.
        stride: step of the window; null is two thirds of it.
        border: the last window of a row is shifted back inside (``shift``), or stays, and what is missing of
            it is black (``pad``). Images smaller than the window are cut or padded likewise.
        merge: what is averaged over scales and mirrored copies: ``softmax`` probabilities, or ``logits``; or
            ``exp`` of the sum of a window's logits and those of its mirrored copy, averaged over windows.
        align_corners: of merging scales, and of resizing images as ``float``; the network has its own.
        absent: what a class counts in a mean that nobody labeled or predicted; see ``evaluation.metrics``.
        evaluators: further figures, by the names of ``segkit.evaluation.evaluators``: true, or its settings.
        precision: of the network; everything after it is float32. ``auto`` is bf16 where the device has
            units for it.
        batch_pixels: windows and mirrored copies of one shape are run together up to this many pixels;
            null suits the device.
        memory: GiB that inference may take beside network and image, to which it fits batches and strips
            (as far as one window allows).

    Raises:
        ValueError: the settings contradict each other.
    """

    name: str = "whole"
    scales: tuple[Annotated[float, Range(least=0.01, most=16)], ...] = (1.0,)
    resize: Literal["factor", "long_side", "bounds"] = "factor"
    base_size: Side | None = None
    bounds: Size | None = None
    resize_as: Literal["float", "uint8"] = "float"
    flip: bool = False
    window: Size | None = None
    stride: Size | None = None
    border: Literal["shift", "pad"] = "shift"
    merge: Literal["softmax", "logits", "exp"] = "softmax"
    align_corners: bool = True
    absent: Literal["zero", "exclude", "labels"] = "zero"
    evaluators: dict[str, dict | bool | None] = field(default_factory=dict)
    precision: Literal["auto", "float32", "bf16"] = "float32"
    batch_pixels: PositiveInt | None = None
    memory: Literal["auto"] | Gibibytes = "auto"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(
                f"evaluation.scales={list(self.scales)}: give at least one scale, all of them above 0"
            )
        if self.resize == "long_side" and self.base_size is None:
            raise ValueError(
                "evaluation.resize=long_side needs evaluation.base_size, the long side at scale 1"
            )
        if self.resize == "bounds" and self.bounds is None:
            raise ValueError("evaluation.resize=bounds needs evaluation.bounds, such as [2048, 512]")
        window, stride = _window_and_stride(self.window, self.stride)
        stored: dict[str, object] = {"window": window, "stride": stride, "bounds": as_pair(self.bounds)}
        stored["scales"] = tuple(float(scale) for scale in self.scales)
        for name, value in stored.items():
            object.__setattr__(self, name, value)  # once, while it is made

    def scaled_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Size of an image at a scale."""
        if self.resize == "long_side":
            assert self.base_size is not None
            long = math.ceil(self.base_size * scale)
            if height > width:
                return long, max(1, int(width * long / height + 0.5))
            return max(1, int(height * long / width + 0.5)), long
        if self.resize == "bounds":
            bounds = [int(side * scale) for side in as_pair(self.bounds) or ()]
        else:
            bounds = [int(side * scale + 0.5) for side in (height, width)]
        return _within(height, width, bounds)

    def resolve_precision(self, device: torch.device) -> Protocol:
        """The same with the precision that ``auto`` means on a device: what has to stand beside a score."""
        return replace(self, precision=pick_precision(self.precision, device))

    def as_dict(self) -> dict[str, Any]:
        """What has to stand beside a score, as plain values for a result file."""
        return {key: value for key, value in asdict(self).items() if key not in HOW_TO_COMPUTE}

    def __str__(self) -> str:
        words = [f"scales {' '.join(f'{scale:g}' for scale in self.scales)}"]
        if self.resize == "long_side":
            words[0] += f" of long side {self.base_size}"
        if self.resize == "bounds" and (bounds := as_pair(self.bounds)):
            words[0] += f" of what fits {max(bounds)}x{min(bounds)}"
        words += ["resized as uint8"] if self.resize_as == "uint8" else []
        words += ["flip"] if self.flip else []
        if self.window and self.stride:
            window, stride = ("x".join(map(str, as_pair(size) or ())) for size in (self.window, self.stride))
            words.append(f"window {window} every {stride}, {self.border} at the border")
        words += [f"merge {self.merge}", f"absent classes: {self.absent}", self.precision]
        return f"{self.name} ({', '.join(words)})"


def _within(height: int, width: int, bounds: Sequence[int]) -> tuple[int, int]:
    """The largest size of the same shape whose long and short side are within the bounds, as mmcv rounds it.

    mmcv turns a factor into bounds too (``Resize`` calls ``_scale_size``, then ``imrescale``), and so rounds
    twice: 201x71 times 1.75 is 351x124, not 352x124.
    """
    longest, shortest = max(bounds), max(1, min(bounds))
    factor = min(longest / max(height, width), shortest / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def pick_precision(
    precision: Literal["auto", "float32", "bf16"], device: torch.device
) -> Literal["float32", "bf16"]:
    """What ``auto`` means on a device."""
    if precision == "auto":
        return "bf16" if supports_bf16(device) else "float32"
    return precision


def as_pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of a size that may be one side."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _window_and_stride(
    window: int | Sequence[int] | None, stride: int | Sequence[int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Both as pairs, checked."""
    size, step = as_pair(window), as_pair(stride)
    if size is None and step is not None:
        raise ValueError(f"evaluation.stride={stride} without evaluation.window: give both or neither")
    if size and step is None:
        step = max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3)
    if size and step and (step[0] > size[0] or step[1] > size[1]):
        raise ValueError(
            f"evaluation.window={window} is smaller than evaluation.stride={stride}: no window would see the "
            "pixels between two windows; make the stride at most the window"
        )
    return size, step
