"""Bilinear resizing of a part of a picture, as if the whole had been resized.

``torch.nn.functional.interpolate`` resizes whole tensors only. Strips and windows need some rows and columns
of the result, and the same numbers whichever strip they come from.
"""

from __future__ import annotations

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
