"""Tiles of sliding-window inference: where they lie, and which rows of the image depend on them.

An image (H, W) is seen in several *views*: one size each, mirrored or not. A grid of tiles covers each view.
Coordinates are named after what they count in: ``image_``, ``view_`` or ``tile_`` pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from segkit.inference.protocol import Protocol, as_pair
from segkit.inference.resample import compute_taps


class View(NamedTuple):
    """The image at one size, perhaps mirrored left to right."""

    height: int
    width: int
    is_mirrored: bool


class Tile(NamedTuple):
    """A rectangle of a view that the network sees at once."""

    view: int  # index
    view_top: int
    view_left: int
    view_bottom: int  # inside the view; the input (``shape``) may reach beyond it
    view_right: int
    shape: tuple[int, int]  # height, width of the network's input; black beyond the view
    image_first: int  # first and last image row that depends on this tile
    image_last: int


def list_views(height: int, width: int, protocol: Protocol) -> list[View]:
    """Return the views of an image; with ``merge=exp`` tiles are mirrored instead of views."""
    has_mirrored_views = protocol.flip and protocol.merge != "exp"
    views = []
    for scale in protocol.scales:
        size = protocol.scaled_size(height, width, scale)
        views.append(View(*size, is_mirrored=False))
        if has_mirrored_views:
            views.append(View(*size, is_mirrored=True))
    return views


def tile_starts(size: int, tile: int, stride: int, border: str) -> list[int]:
    """Return the first pixel of each tile along one axis of a view."""
    count = math.ceil(max(size - tile, 0) / stride) + 1
    starts = [step * stride for step in range(count)]
    if border == "pad":
        return starts
    return [max(0, min(start, size - tile)) for start in starts]


def list_tiles(height: int, width: int, protocol: Protocol) -> list[Tile]:
    """Return the tiles of all views of an image (height, width), in the order its rows need them."""
    tiles = []
    for index, view in enumerate(list_views(height, width, protocol)):
        tile_height, tile_width = as_pair(protocol.window) or (view.height, view.width)
        if protocol.border == "shift":
            tile_height, tile_width = min(tile_height, view.height), min(tile_width, view.width)
        stride_rows, stride_columns = as_pair(protocol.stride) or (1, 1)
        lefts = tile_starts(view.width, tile_width, stride_columns, protocol.border)
        rows = compute_taps(view.height, height, align_corners=protocol.align_corners)
        for top in tile_starts(view.height, tile_height, stride_rows, protocol.border):
            bottom = min(top + tile_height, view.height)
            image_first = int(np.searchsorted(rows.after, top))
            image_last = int(np.searchsorted(rows.before, bottom)) - 1
            if image_first > image_last:
                continue  # shrinking to the image skips all rows of this tile
            for left in lefts:
                right = min(left + tile_width, view.width)
                shape = (tile_height, tile_width)
                tiles.append(Tile(index, top, left, bottom, right, shape, image_first, image_last))
    return sorted(tiles, key=lambda tile: (tile.image_first, tile.shape))
