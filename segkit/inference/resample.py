"""Bilinear resizing of a part of an image, as if the whole had been resized.

``torch.nn.functional.interpolate`` resizes whole tensors only. Strips and windows need some rows and columns
of the result, and the same numbers whichever strip they come from.
"""

from __future__ import annotations

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.inference.windows import Taps


def blend(values: Tensor, axis: int, part: Taps, offset: int = 0) -> Tensor:
    """Resize one axis at the given taps; ``values`` begins at position ``offset`` of that axis."""
    before, after = (
        torch.from_numpy(index - offset).to(values.device) for index in (part.before, part.after)
    )
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = torch.from_numpy(part.weight).to(values.device, values.dtype).view(shape)
    return torch.lerp(values.index_select(axis, before), values.index_select(axis, after), weight)


def section(part: Taps, start: int, stop: int) -> Taps:
    """The taps of the positions start..stop of the resized axis."""
    return Taps(*(values[start:stop] for values in part))


def source(part: Taps) -> tuple[int, int]:
    """First and last + 1 position that the taps look at."""
    return int(part.before[0]), int(part.after[-1]) + 1


def widen(rows: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """Resize rows (R, w, C) to (R, width, C); classes last is the layout in which this is fast."""
    if rows.shape[1] == width:
        return rows
    size = (rows.shape[0], width)
    wide = F.interpolate(rows.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=align_corners)
    return wide[0].permute(1, 2, 0)


def as_uint8(image: Tensor, height: int, width: int) -> Tensor:
    """The whole image (3, H, W) uint8 at another size, still uint8, as OpenCV's (so mmcv's) linear resize."""
    if image.shape[1:] == (height, width):
        return image
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)
