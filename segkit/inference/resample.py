"""Bilinear resizing of part of an image, with the same numbers as resizing all of it.

``torch.nn.functional.interpolate`` resizes complete tensors only. Strips and tiles need some rows and columns
of the result, equal to the bit for every choice of rows.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Taps(NamedTuple):
    """Bilinear resizing of one axis: ``(1 - weight) * source[before] + weight * source[after]``."""

    before: np.ndarray  # (n) int64
    after: np.ndarray
    weight: np.ndarray  # float64


def compute_taps(size: int, resized: int, *, align_corners: bool) -> Taps:
    """Return the taps of resizing an axis of ``size`` to ``resized``, as in ``F.interpolate``."""
    target = np.arange(resized, dtype=np.float64)
    if not align_corners:
        position = np.maximum((target + 0.5) * (size / resized) - 0.5, 0)
    elif resized > 1:
        position = target * ((size - 1) / (resized - 1))
    else:
        position = target
    before = np.minimum(position.astype(np.int64), size - 1)
    return Taps(before, np.minimum(before + 1, size - 1), position - before)


class AxisResizer:
    """Resizes parts of one axis from ``size`` to ``resized`` positions; copies where both are equal.

    The taps are on the host, which decides what to cut, and on the device, which interpolates.
    """

    def __init__(
        self, size: int, resized: int, device: torch.device, dtype: torch.dtype, *, align_corners: bool
    ) -> None:
        self.is_identity = size == resized
        self.taps = taps = compute_taps(size, resized, align_corners=align_corners)
        self.before = torch.from_numpy(taps.before).to(device)
        self.after = torch.from_numpy(taps.after).to(device)
        self.weight = torch.from_numpy(taps.weight).to(dtype).to(device)

    def source_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the source positions (first, last + 1) that results ``start..stop`` are computed from."""
        if self.is_identity:
            return start, stop
        return int(self.taps.before[start]), int(self.taps.after[stop - 1]) + 1

    def resize(self, source: Tensor, dim: int, start: int, stop: int, *, source_start: int = 0) -> Tensor:
        """Return resized positions ``start..stop`` along ``dim``; ``source`` starts at ``source_start``."""
        if self.is_identity:
            return source.narrow(dim, start - source_start, stop - start)
        before = source.index_select(dim, self.before[start:stop] - source_start)
        after = source.index_select(dim, self.after[start:stop] - source_start)
        shape = [1] * source.ndim
        shape[dim] = -1
        return torch.lerp(before, after, self.weight[start:stop].view(shape))


make_axis_resizer = functools.lru_cache(maxsize=256)(AxisResizer)
"""Return the resizer of an axis; cached, because copying taps to a device makes the host wait."""


def resize_columns(rows: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """Resize rows (R, w, K) to (R, width, K); fastest with the classes last in memory."""
    if rows.shape[1] == width:
        return rows
    size = (rows.shape[0], width)
    image = rows[None].permute(0, 3, 1, 2)  # in this order, PyTorch sees that it is channels last
    wide = F.interpolate(image, size, mode="bilinear", align_corners=align_corners)
    return wide[0].permute(1, 2, 0)


def resize_uint8(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image (3, H, W) uint8 as OpenCV and mmcv do, to (3, height, width) uint8."""
    if image.shape[1:] == (height, width):
        return image
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)
