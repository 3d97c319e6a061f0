"""Sliding-window inference in strips, so that memory does not grow with image size times classes.

1. ``tiles`` lists the tiles of all views of the image, ordered by the first image row that depends on them.
2. Just before their first row is due, tiles run through the network in batches. Their logits stay at the
   resolution of the head, where they are small.
3. The image is finished strip by strip. For each view, the tiles that touch the strip are upsampled, averaged
   and resized to the image; the views are summed.
4. A tile is dropped when the last row that depends on it is finished.

Coordinates are named after what they count in: ``image_``, ``view_`` (a resized image) or ``tile_`` pixels.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segkit.inference import resample
from segkit.inference.protocol import Protocol
from segkit.inference.tiles import Tile, View, list_tiles, list_views
from segkit.types import class_id_dtype

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

STRIP_BYTES = {"cpu": 24 * 2**20, "cuda": 2**30}  # working memory of a strip; on CPUs the size of caches
BATCH_PIXELS = {"cpu": 240_000, "cuda": 2_000_000}  # a CPU is 15-20 % faster when a tile fits its caches
BYTES_PER_PIXEL = 2048  # of activations; DeepLabV3-ResNeSt-101 was measured to need 900 in float32


class Strip(NamedTuple):
    """Scores of the image rows top..bottom; the class with the largest score is predicted."""

    top: int
    bottom: int
    scores: Tensor  # (rows, W, K) float


def predict(
    model: Segmenter,
    image: np.ndarray | Tensor,
    protocol: Protocol,
    *,
    on_strip: Callable[[Strip], None] | None = None,
) -> Tensor:
    """Return the class of each pixel.

    Args:
        model: a segmenter; ``segkit.inference.prepare`` returns a faster copy.
        image: (H, W, C) array or (C, H, W) tensor, as stored: uint8 RGB of photographs.
        protocol: scales, flips and tiles.
        on_strip: called with each strip of merged scores, from top to bottom.

    Returns:
        (H, W) class ids on the model's device, at the image's own size.

    Raises:
        ValueError: the image has another shape or type, or the network returned NaN or infinity.
    """
    pixels = _image_to_device(model, image)
    classify = getattr(model, "classify", None)  # an exported file that returns class ids
    if classify is not None and on_strip is None:
        return classify(pixels, protocol)
    ids = pixels.new_empty(pixels.shape[1:], dtype=getattr(torch, class_id_dtype(model.num_classes)))
    for strip in iterate_strips(model, pixels, protocol):
        if on_strip:
            on_strip(strip)
        ids[strip.top : strip.bottom] = strip.scores.max(2).indices  # faster than argmax
    return ids


def predict_probabilities(model: Segmenter, image: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """Return (K, H, W) probabilities on the CPU: merged scores, with sum 1 at each pixel."""
    strips = []
    for strip in iterate_strips(model, _image_to_device(model, image), protocol):
        scores = strip.scores
        if _scores_are_logits(protocol):
            scores = scores.softmax(2)
        strips.append((scores / scores.sum(2, keepdim=True)).cpu())
    return torch.cat(strips).permute(2, 0, 1)


def scores_to_logits(scores: Tensor, protocol: Protocol) -> Tensor:
    """Return merged scores (..., K) as values whose softmax is the merged probabilities."""
    if _scores_are_logits(protocol):
        return scores
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).log()


def _scores_are_logits(protocol: Protocol) -> bool:
    """Return whether merged scores are logits; with one view, softmax can wait: it changes no argmax."""
    has_one_view = len(protocol.scales) == 1 and not protocol.flip
    return protocol.merge == "logits" or (protocol.merge == "softmax" and has_one_view)


def _image_to_device(model: Segmenter, image: np.ndarray | Tensor) -> Tensor:
    """Return the image as a (C, H, W) tensor on the model's device."""
    if isinstance(image, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    else:
        pixels = image
    bands = getattr(model, "in_channels", 3)
    takes_photographs = getattr(model, "takes_photographs", True)
    has_right_shape = pixels.ndim == 3 and len(pixels) == bands and pixels.numel() > 0
    if not has_right_shape or (takes_photographs and pixels.dtype != torch.uint8):
        dtype = "uint8" if takes_photographs else "the values as stored"
        raise ValueError(
            f"image of shape {tuple(image.shape)} and type {image.dtype}: this network takes "
            f"(H, W, {bands}) arrays or ({bands}, H, W) tensors of {dtype}"
        )
    return pixels.to(next(model.parameters()).device, non_blocking=True)


@torch.inference_mode()
def iterate_strips(model: Segmenter, image: Tensor, protocol: Protocol) -> Iterator[Strip]:
    """Yield ``Strip`` after ``Strip`` of merged scores (rows, W, K) of a stored image (C, H, W)."""
    window = _SlidingWindow(model.eval(), image, protocol)
    height = image.shape[1]
    step = window.strip_rows()
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield Strip(top, bottom, window.score_rows(top, bottom))
    window.check_finite()


class _SlidingWindow:
    """One image under one protocol: the tiles still to run, and the logits of those still needed."""

    def __init__(self, model: Segmenter, image: Tensor, protocol: Protocol) -> None:
        self.model, self.image, self.protocol = model, image, protocol
        self.height, self.width = image.shape[1:]
        self.model_dtype = next(model.parameters()).dtype
        # of everything but the network; exp of two logits overflows half precision past about 11
        self.dtype = torch.float64 if self.model_dtype == torch.float64 else torch.float32
        self.is_channels_last = any(map(_is_channels_last, model.parameters()))
        self.head_align_corners = getattr(model, "align_corners", True)
        self.resizer = functools.partial(resample.make_axis_resizer, device=image.device, dtype=self.dtype)
        self.mirrors_tiles = protocol.flip and protocol.merge == "exp"
        black = torch.tensor(getattr(model, "black", [0.0] * len(image)), device=image.device)
        self.black = model.normalize(black.view(1, -1, 1, 1))[0].to(self.dtype)  # (C, 1, 1)
        self.views = list_views(self.height, self.width, protocol)
        self.pending_tiles = deque(list_tiles(self.height, self.width, protocol))
        self.tile_logits: dict[Tile, Tensor] = {}  # (h, w, K) at the resolution of the head
        self.has_nonfinite: Tensor | None = None
        self.resized_images: dict[tuple[int, int], Tensor] = {}  # (C, h, w) uint8 by size
        if protocol.resize_as == "uint8":
            sizes = {(view.height, view.width) for view in self.views}
            self.resized_images = {size: resample.resize_uint8(image, *size) for size in sizes}

    def strip_rows(self) -> int:
        """Return how many image rows to finish at a time."""
        budget = STRIP_BYTES.get(self.image.device.type, STRIP_BYTES["cpu"])
        if self.protocol.memory != "auto":
            budget = min(budget, int(self.protocol.memory * 2**30 / 8))
        widest = max([self.width] + [view.width * max(1, view.height / self.height) for view in self.views])
        row = 4 * self.model.num_classes * widest * self.dtype.itemsize  # view, sum, tile, result
        return max(1, int(budget / row))

    def score_rows(self, image_top: int, image_bottom: int) -> Tensor:
        """Return the scores (rows, W, K) of some image rows; must be called from top to bottom."""
        while self.pending_tiles and self.pending_tiles[0].image_first < image_bottom:
            self.run_batch()
        total = self.score_view(0, image_top, image_bottom)
        for index in range(1, len(self.views)):
            total.add_(self.score_view(index, image_top, image_bottom))
        for tile in list(self.tile_logits):
            if tile.image_last < image_bottom:
                del self.tile_logits[tile]
        return total

    def run_batch(self) -> None:
        """Run the network on the next tiles of one shape, and store their logits."""
        crops_at_once, tiles = self.take_batch()
        crops = torch.stack([self.crop_tile(tile) for tile in tiles]).to(self.model_dtype)
        if self.mirrors_tiles:
            crops = torch.cat([crops, crops.flip(3)])
        logits = torch.cat([self.forward(part) for part in crops.split(crops_at_once)])
        if self.mirrors_tiles:
            logits = logits[: len(tiles)] + logits[len(tiles) :].flip(3)
        has_nonfinite = ~torch.isfinite(logits).all()
        if self.has_nonfinite is None:
            self.has_nonfinite = has_nonfinite
            self.check_finite()
        else:
            self.has_nonfinite = self.has_nonfinite | has_nonfinite
        self.tile_logits.update(zip(tiles, logits.permute(0, 2, 3, 1).contiguous(), strict=True))

    def take_batch(self) -> tuple[int, list[Tile]]:
        """Return how many crops the network takes at once, and the next tiles of one shape."""
        pixels = self.protocol.batch_pixels
        if pixels is None:
            pixels = BATCH_PIXELS.get(self.image.device.type, BATCH_PIXELS["cpu"])
        if self.protocol.memory != "auto":
            pixels = min(pixels, int(self.protocol.memory * 2**30 / 2 / BYTES_PER_PIXEL))
        tiles = [self.pending_tiles.popleft()]
        tile_height, tile_width = tiles[0].shape
        crops_at_once = max(1, pixels // (tile_height * tile_width))
        most = crops_at_once // 2 if self.mirrors_tiles else crops_at_once
        while self.pending_tiles and self.pending_tiles[0].shape == tiles[0].shape and len(tiles) < most:
            tiles.append(self.pending_tiles.popleft())
        return crops_at_once, tiles

    def check_finite(self) -> None:
        """Raise ``ValueError`` if any logits were NaN or infinite.

        The host waits for the device here, so this is called only after the first batch and at the end.
        """
        if self.has_nonfinite:
            raise ValueError(
                "the network returned NaN or infinity: its weights are broken (a run that diverged?) or the "
                "precision is too low. Look at train/loss, or try evaluation.precision=float32"
            )

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (B, K, h, w) at the resolution of the head."""
        if self.is_channels_last:
            crops = crops.contiguous(memory_format=torch.channels_last)
        if hasattr(self.model, "backbone") and hasattr(self.model, "head"):
            logits = self.model.head(self.model.backbone(crops))
        else:
            logits = self.model(crops).main
        return logits.to(self.dtype)

    def crop_tile(self, tile: Tile) -> Tensor:
        """Return the normalized pixels (C, *tile.shape) of a tile, black beyond the view."""
        view = self.views[tile.view]
        view_rows = tile.view_top, tile.view_bottom
        if view.is_mirrored:
            view_columns = view.width - tile.view_right, view.width - tile.view_left
            pixels = self.resize_part(view, view_rows, view_columns).flip(2)
        else:
            pixels = self.resize_part(view, view_rows, (tile.view_left, tile.view_right))
        if pixels.shape[1:] == tile.shape:
            return pixels
        padded = self.black.expand(len(self.black), *tile.shape).clone()
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded

    def resize_part(self, view: View, view_rows: tuple[int, int], view_columns: tuple[int, int]) -> Tensor:
        """Return normalized pixels (C, rows, columns) of part of a view, before mirroring."""
        if self.resized_images:
            resized = self.resized_images[view.height, view.width]
            part = resized[None, :, slice(*view_rows), slice(*view_columns)]
            return self.model.normalize(part)[0].to(self.dtype)
        rows = self.resizer(self.height, view.height, align_corners=self.protocol.align_corners)
        columns = self.resizer(self.width, view.width, align_corners=self.protocol.align_corners)
        image_top, image_bottom = rows.source_range(*view_rows)
        image_left, image_right = columns.source_range(*view_columns)
        part = self.image[None, :, image_top:image_bottom, image_left:image_right]
        pixels = self.model.normalize(part)[0].to(self.dtype)
        pixels = rows.resize(pixels, 1, *view_rows, source_start=image_top)
        return columns.resize(pixels, 2, *view_columns, source_start=image_left)

    def score_view(self, index: int, image_top: int, image_bottom: int) -> Tensor:
        """Return the scores (rows, W, K) that one view gives some image rows."""
        view = self.views[index]
        resizer = self.resizer(view.height, self.height, align_corners=self.protocol.align_corners)
        view_top, view_bottom = resizer.source_range(image_top, image_bottom)
        rows = self.merge_tiles(index, view_top, view_bottom)
        rows = resizer.resize(rows, 0, image_top, image_bottom, source_start=view_top)
        rows = resample.resize_columns(rows, self.width, align_corners=self.protocol.align_corners)
        if view.is_mirrored:
            rows = rows.flip(1)
        if self.protocol.merge == "softmax" and not _scores_are_logits(self.protocol):
            rows = rows.softmax(2)
        return rows

    def merge_tiles(self, index: int, view_top: int, view_bottom: int) -> Tensor:
        """Return some rows of a view, averaged over the tiles that overlap there: (rows, view width, K)."""
        view = self.views[index]
        tiles = [tile for tile in self.tile_logits if tile.view == index]
        tiles = [tile for tile in tiles if tile.view_top < view_bottom and tile.view_bottom > view_top]
        first = tiles[0]
        spans_view = (first.view_left, first.view_right) == (0, view.width)
        if len(tiles) == 1 and spans_view and first.view_top <= view_top and first.view_bottom >= view_bottom:
            return self.upsample_tile(first, view_top, view_bottom)
        num_classes = self.tile_logits[first].shape[2]
        total = self.image.new_zeros(view_bottom - view_top, view.width, num_classes, dtype=self.dtype)
        visits = total.new_zeros(view_bottom - view_top, view.width, 1)
        for tile in tiles:
            top, bottom = max(tile.view_top, view_top), min(tile.view_bottom, view_bottom)
            area = slice(top - view_top, bottom - view_top), slice(tile.view_left, tile.view_right)
            total[area] += self.upsample_tile(tile, top, bottom)
            visits[area] += 1
        return total.div_(visits)

    def upsample_tile(self, tile: Tile, view_top: int, view_bottom: int) -> Tensor:
        """Return some rows of a tile's logits (rows, columns inside the view, K), at the size of the view."""
        logits = self.tile_logits[tile]
        tile_height, tile_width = tile.shape
        resizer = self.resizer(logits.shape[0], tile_height, align_corners=self.head_align_corners)
        rows = resizer.resize(logits, 0, view_top - tile.view_top, view_bottom - tile.view_top)
        rows = resample.resize_columns(rows, tile_width, align_corners=self.head_align_corners)
        rows = rows[:, : tile.view_right - tile.view_left]
        if self.protocol.merge == "exp":
            return rows.exp()
        return rows


def _is_channels_last(weight: Tensor) -> bool:
    if weight.ndim != 4 or weight.is_contiguous():
        return False
    return weight.is_contiguous(memory_format=torch.channels_last)
