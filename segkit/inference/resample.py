"""Bilinear resizing of a part of an image, as if the whole had been resized.

``torch.nn.functional.interpolate`` resizes whole tensors only. Strips and tiles need some rows and columns
of the result, and the same numbers whichever strip they come from.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.inference import tiles


class Axis(NamedTuple):
    """Taps of resizing one axis: on the host, which decides what is cut, and on the device, which blends."""

    taps: tiles.Taps
    before: Tensor  # (n) int64
    after: Tensor
    weight: Tensor  # (n) of the type of what is blended


@functools.lru_cache(maxsize=256)
def interpolation_taps(
    size: int, resized: int, device: torch.device, dtype: torch.dtype, *, align_corners: bool
) -> Axis:
    """The taps of a whole axis; they go to the device once, not with each strip, for which it would wait."""
    taps = tiles.taps(size, resized, align_corners=align_corners)
    before, after, weight = map(torch.from_numpy, taps)
    return Axis(taps, before.to(device), after.to(device), weight.to(dtype).to(device))


def slice_taps(part: Axis, start: int, stop: int) -> Axis:
    """The taps of the positions start..stop of the resized axis."""
    taps = tiles.Taps(*(values[start:stop] for values in part.taps))
    return Axis(taps, *(values[start:stop] for values in part[1:]))


def source_range(part: Axis) -> tuple[int, int]:
    """First and last + 1 position that the taps look at."""
    return int(part.taps.before[0]), int(part.taps.after[-1]) + 1


def resize_axis(values: Tensor, dim: int, part: Axis, offset: int = 0) -> Tensor:
    """Resize one axis at the given taps; ``values`` begins at position ``offset`` of that axis."""
    shape = [1] * values.ndim
    shape[dim] = -1
    before, after = (values.index_select(dim, index - offset) for index in (part.before, part.after))
    return torch.lerp(before, after, part.weight.view(shape))


def resize_columns(rows: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """Resize rows (R, w, C) to (R, width, C); classes last is the layout in which this is fast."""
    if rows.shape[1] == width:
        return rows
    size = (rows.shape[0], width)
    wide = F.interpolate(rows.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=align_corners)
    return wide[0].permute(1, 2, 0)


def resize_uint8(image: Tensor, height: int, width: int) -> Tensor:
    """The whole image (3, H, W) uint8 at another size, still uint8, as OpenCV's (so mmcv's) linear resize."""
    if image.shape[1:] == (height, width):
        return image
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)
