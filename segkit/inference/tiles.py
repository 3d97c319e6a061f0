"""Geometry of tiles, the windows of sliding-window inference; no pixels.

An image (H, W) is seen in several *views*: a scale, mirrored or not. Each is covered by tiles in a grid.
Results are wanted row by row of the image, so each tile knows the rows of the image that depend on it.
Coordinates are named after what they count in: ``image_``, ``view_`` or ``tile_``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from segkit.inference.protocol import Protocol, as_pair


class View(NamedTuple):
    """The image at one size, perhaps mirrored left to right."""

    height: int
    width: int
    mirrored: bool


class Tile(NamedTuple):
    """A rectangle of a view that the network sees at once."""

    view: int  # index
    view_top: int  # rows and columns of the view; the tile may reach beyond them, see ``shape``
    view_left: int
    view_bottom: int
    view_right: int
    shape: tuple[int, int]  # height, width of what the network sees; beyond the view it is black
    image_first: int  # rows of the image, inclusive, that depend on this tile
    image_last: int


class Taps(NamedTuple):
    """Bilinear resizing of one axis: value = (1 - weight) * x[before] + weight * x[after]."""

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray  # float64


def taps(size: int, resized: int, *, align_corners: bool) -> Taps:
    """Return the taps of resizing an axis of ``size`` to ``resized``, as in ``F.interpolate``."""
    target = np.arange(resized, dtype=np.float64)
    if align_corners:
        place = target * ((size - 1) / (resized - 1)) if resized > 1 else target
    else:
        place = np.maximum((target + 0.5) * (size / resized) - 0.5, 0)
    before = np.minimum(place.astype(np.int64), size - 1)
    return Taps(before, np.minimum(before + 1, size - 1), place - before)


def tile_starts(size: int, tile: int, stride: int, border: str) -> list[int]:
    """Return the first pixels of the tiles along one axis of a view."""
    steps = math.ceil(max(size - tile, 0) / stride) + 1
    if border == "pad":
        return [step * stride for step in range(steps)]
    return [max(0, min(step * stride, size - tile)) for step in range(steps)]


def list_views(height: int, width: int, protocol: Protocol) -> list[View]:
    """Return the views of an image; ``exp`` mirrors tiles instead of images, so it has no mirrored ones."""
    mirrors = (False, True) if protocol.flip and protocol.merge != "exp" else (False,)
    sizes = [protocol.scaled_size(height, width, scale) for scale in protocol.scales]
    return [View(*size, mirrored) for size in sizes for mirrored in mirrors]


def list_tiles(height: int, width: int, protocol: Protocol) -> list[Tile]:
    """Return all tiles of all views of an image (height, width), in the order in which its rows need them."""
    tiles = []
    for index, view in enumerate(list_views(height, width, protocol)):
        rows = taps(view.height, height, align_corners=protocol.align_corners)
        tile_height, tile_width = as_pair(protocol.window) or (view.height, view.width)
        stride = as_pair(protocol.stride) or (1, 1)
        if protocol.border == "shift":
            tile_height, tile_width = min(tile_height, view.height), min(tile_width, view.width)
        shape = (tile_height, tile_width)
        for top in tile_starts(view.height, tile_height, stride[0], protocol.border):
            bottom = min(top + tile_height, view.height)
            image_first = int(np.searchsorted(rows.after, top))
            image_last = int(np.searchsorted(rows.before, bottom)) - 1
            if image_first > image_last:
                continue  # shrinking jumps over rows, and over a tile that has nothing but such rows
            for left in tile_starts(view.width, tile_width, stride[1], protocol.border):
                right = min(left + tile_width, view.width)
                tiles.append(Tile(index, top, left, bottom, right, shape, image_first, image_last))
    return sorted(tiles, key=lambda tile: (tile.image_first, tile.shape))
