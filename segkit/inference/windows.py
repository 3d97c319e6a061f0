"""Where the windows lie: geometry only, no pixels.

An image (H, W) is seen in several *views*: a scale, mirrored or not. Each is covered by windows in a grid.
Results are wanted row by row of the image, so each window knows the rows of the image that need it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from segkit.inference.protocols import Protocol, pair


class View(NamedTuple):
    """The image at one size, perhaps mirrored left to right."""

    height: int
    width: int
    mirrored: bool


class Window(NamedTuple):
    """A rectangle of a view; its part inside the view is (bottom - top) x (right - left)."""

    view: int  # index
    top: int
    left: int
    bottom: int
    right: int
    shape: tuple[int, int]  # what the network sees; what lies outside the view is black
    first: int  # the rows of the image, inclusive, that depend on this window
    last: int


class Taps(NamedTuple):
    """Where bilinear resizing of one axis looks: value = (1 - weight) * x[before] + weight * x[after]."""

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray  # float64


def taps(size: int, resized: int, *, align_corners: bool) -> Taps:
    """Taps of resizing an axis of ``size`` to ``resized``, where ``torch``'s ``interpolate`` has them."""
    target = np.arange(resized, dtype=np.float64)
    if align_corners:
        place = target * ((size - 1) / (resized - 1)) if resized > 1 else target
    else:
        place = np.maximum((target + 0.5) * (size / resized) - 0.5, 0)
    before = np.minimum(place.astype(np.int64), size - 1)
    return Taps(before, np.minimum(before + 1, size - 1), place - before)


def starts(size: int, window: int, stride: int, border: str) -> list[int]:
    """First pixels of the windows along one axis."""
    steps = math.ceil(max(size - window, 0) / stride) + 1
    if border == "pad":
        return [step * stride for step in range(steps)]
    return [max(0, min(step * stride, size - window)) for step in range(steps)]


def views(height: int, width: int, protocol: Protocol) -> list[View]:
    """The views of an image; ``exp`` mirrors windows instead of images, so it has no mirrored ones."""
    mirrors = (False, True) if protocol.flip and protocol.merge != "exp" else (False,)
    sizes = [protocol.scaled(height, width, scale) for scale in protocol.scales]
    return [View(*size, mirrored) for size in sizes for mirrored in mirrors]


def windows_of(height: int, width: int, protocol: Protocol) -> list[Window]:
    """All windows of all views of an image (height, width), in the order in which its rows need them."""
    windows = []
    for index, view in enumerate(views(height, width, protocol)):
        rows = taps(view.height, height, align_corners=protocol.align_corners)
        tall, wide = pair(protocol.window) or (view.height, view.width)
        step = pair(protocol.stride) or (1, 1)
        if protocol.border == "shift":
            tall, wide = min(tall, view.height), min(wide, view.width)
        for top in starts(view.height, tall, step[0], protocol.border):
            bottom = min(top + tall, view.height)
            first = int(np.searchsorted(rows.after, top))
            last = int(np.searchsorted(rows.before, bottom)) - 1
            if first > last:
                continue  # shrinking jumps over rows, and over a window that has nothing but such rows
            windows += [
                Window(index, top, left, bottom, min(left + wide, view.width), (tall, wide), first, last)
                for left in starts(view.width, wide, step[1], protocol.border)
            ]
    return sorted(windows, key=lambda window: (window.first, window.shape))
