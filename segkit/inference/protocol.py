"""Evaluation protocols: everything besides the network and the images that decides a score.

``encoding`` is the procedure behind the published ResNeSt scores; ``mmseg``, ``mmseg_ms`` and ``mmseg_slide``
are those of mmsegmentation. ``whole`` and ``sliding`` score images at native size, complete or in windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from segkit.config import Gibibytes, Interval, PositiveInt, Side, Size
from segkit.runtime.precision import supports_bf16

if TYPE_CHECKING:
    import torch

SPEED_SETTINGS = ("batch_pixels", "memory")  # they change scores by rounding only


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation, checked.

    Sizes given as one number are stored as pairs, and the default stride as its value.

    Attributes:
        name: printed beside the score.
        scales: the image is scored at each scale, and the results are merged.
        resize: a scale multiplies the image's size (``factor``, rounded as in mmcv), sets its long side to
            ceil(``base_size`` * scale) (``long_side``), or multiplies the ``bounds`` it fits (``bounds``).
        base_size: long side at scale 1, in pixels, for ``long_side``.
        bounds: largest long and short side at scale 1, in any order, for ``bounds``.
        resize_as: normalize, then resize strip by strip (``float``); or resize as OpenCV resizes ``uint8``,
            then normalize, as mmsegmentation does. ``uint8`` needs 3 bytes per pixel at every scale.
        flip: also score the mirrored image.
        window: side, or height and width, of the sliding window; null scores the complete image.
        stride: step of the window; null is two thirds of it.
        border: ``shift`` moves the last window of a row back inside the image; ``pad`` fills the part outside
            with black. Images smaller than the window are cut or padded in the same way.
        merge: what is averaged over scales and mirrored copies: ``softmax`` probabilities or ``logits``. With
            ``exp``, exp(logits of a window + logits of its mirrored copy) is averaged over windows.
        align_corners: for merging scales and for resizing images as ``float``; the network has its own.
        absent: how a mean counts classes that nobody labeled or predicted; see ``evaluation.metrics``.
        evaluators: further metrics of ``segkit.evaluation.evaluators`` by name: true, or their settings.
        precision: of the network; everything after it is float32. ``auto`` is bf16 where the device has units
            for it.
        batch_pixels: windows and mirrored copies of one shape are batched up to this many pixels; null
            picks a value for the device.
        memory: GiB for inference besides network and image; batches and strips are sized to fit, down to one
            window.

    Raises:
        ValueError: the settings contradict each other.
    """

    name: str = "whole"
    scales: tuple[Annotated[float, Interval(ge=0.01, le=16)], ...] = (1.0,)
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
            raise ValueError(f"evaluation.scales={list(self.scales)}: give at least one scale, all above 0")
        if self.resize == "long_side" and self.base_size is None:
            raise ValueError(
                "evaluation.resize=long_side needs evaluation.base_size, the long side at scale 1"
            )
        if self.resize == "bounds" and self.bounds is None:
            raise ValueError("evaluation.resize=bounds needs evaluation.bounds, such as [2048, 512]")
        window, stride = as_pair(self.window), as_pair(self.stride)
        if window is None and stride is not None:
            raise ValueError(f"evaluation.stride={self.stride}: needs evaluation.window; set both or neither")
        if window is not None and stride is None:
            stride = max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)
        if window and stride and (stride[0] > window[0] or stride[1] > window[1]):
            raise ValueError(
                f"evaluation.stride={self.stride}: must be at most evaluation.window={self.window}, or "
                "pixels between two windows would not be scored"
            )
        object.__setattr__(self, "window", window)
        object.__setattr__(self, "stride", stride)
        object.__setattr__(self, "bounds", as_pair(self.bounds))
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))

    def scaled_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return the size (height, width) of an image at a scale."""
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
        return _fit_bounds(height, width, bounds)

    def resolve_precision(self, device: torch.device) -> Protocol:
        """Return a copy with ``precision=auto`` resolved for the device."""
        return replace(self, precision=pick_precision(self.precision, device))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that decide a score as plain values, for a result file."""
        return {key: value for key, value in asdict(self).items() if key not in SPEED_SETTINGS}

    def __str__(self) -> str:
        scales = f"scales {' '.join(f'{scale:g}' for scale in self.scales)}"
        if self.resize == "long_side":
            scales += f" of long side {self.base_size}"
        if self.resize == "bounds":
            long, short = sorted(as_pair(self.bounds) or (), reverse=True)
            scales += f" of bounds {long}x{short}"
        parts = [scales]
        if self.resize_as == "uint8":
            parts.append("resized as uint8")
        if self.flip:
            parts.append("flip")
        if self.window:
            window, stride = _format_size(self.window), _format_size(self.stride)
            parts.append(f"window {window}, stride {stride}, border {self.border}")
        parts += [f"merge {self.merge}", f"absent classes: {self.absent}", self.precision]
        return f"{self.name} ({', '.join(parts)})"


def _fit_bounds(height: int, width: int, bounds: Sequence[int]) -> tuple[int, int]:
    """Return the largest size with this aspect ratio within the bounds of long and short side, as in mmcv.

    mmcv turns a factor into bounds too (``Resize`` calls ``_scale_size``, then ``imrescale``), and so rounds
    twice: 201x71 times 1.75 is 351x124, not 352x124.
    """
    longest, shortest = max(bounds), max(1, min(bounds))
    factor = min(longest / max(height, width), shortest / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def pick_precision(
    precision: Literal["auto", "float32", "bf16"], device: torch.device
) -> Literal["float32", "bf16"]:
    """Return the precision itself; for ``auto``, bf16 where the device has units for it."""
    if precision != "auto":
        return precision
    if supports_bf16(device):
        return "bf16"
    return "float32"


def as_pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return (height, width) of a size that may be a single side."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _format_size(size: int | Sequence[int] | None) -> str:
    return "x".join(map(str, as_pair(size) or ()))
