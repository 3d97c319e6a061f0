"""Sliding-window inference in strips: nothing of the size image x classes is ever held.

The logits of a tile are kept at the resolution of the head, where they are small. The rows of the image are
then finished strip by strip: for each view the tiles that touch the strip are upsampled, merged and resized
to the image, and forgotten when the last row that depends on them is done. Tiles run just before their first
row is due, so an image of any height needs the memory of the tiles that one strip touches.

Coordinates are named after what they count in: ``image_``, ``view_`` (a resized image) or ``tile_``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
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

STRIP_BYTES = {"cpu": 24 * 2**20, "cuda": 2**30}  # of a strip's working memory: on a CPU what its caches hold
BATCH_PIXELS = {"cpu": 240_000, "cuda": 2_000_000}  # a CPU is 15-20 % faster when a tile fits its caches
BYTES_PER_PIXEL = 2048  # of activations, generously: DeepLabV3-ResNeSt-101 was seen to take 900 in float32


class Strip(NamedTuple):
    """Scores of the image's rows top..bottom; larger is likelier."""

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
        model: a segmenter; ``segkit.inference.preparation`` makes it faster.
        image: (H, W, C) array or (C, H, W) tensor, as stored: uint8 RGB of photographs.
        protocol: scales, flips and tiles.
        on_strip: called with each strip of merged scores, from top to bottom.

    Returns:
        (H, W) class ids on the model's device, at the image's own size.

    Raises:
        ValueError: the image is of another kind, or the network returned something that is no number.
    """
    pixels = _on_device(model, image)
    if on_strip is None and (classify := getattr(model, "classify", None)):  # an exported file that gives ids
        return classify(pixels, protocol)
    ids = pixels.new_empty(pixels.shape[1:], dtype=getattr(torch, class_id_dtype(model.num_classes)))
    for strip in iterate_strips(model, pixels, protocol):
        if on_strip:
            on_strip(strip)
        ids[strip.top : strip.bottom] = strip.scores.argmax(2)
    return ids


def predict_probabilities(model: Segmenter, image: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """Return (K, H, W) probabilities on the CPU: merged scores, with sum 1 at each pixel."""
    parts = []
    for strip in iterate_strips(model, _on_device(model, image), protocol):
        merged = strip.scores
        if protocol.merge == "logits" or _one_view(protocol):
            merged = merged.softmax(2)
        parts.append((merged / merged.sum(2, keepdim=True)).cpu())
    return torch.cat(parts).permute(2, 0, 1)


def scores_to_logits(scores: Tensor, protocol: Protocol) -> Tensor:
    """Return merged scores (..., K) of a strip as values whose softmax are the merged probabilities."""
    if protocol.merge == "logits" or _one_view(protocol):
        return scores
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).log()


def _on_device(model: Segmenter, image: np.ndarray | Tensor) -> Tensor:
    if isinstance(image, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    else:
        pixels = image
    bands, of_photographs = getattr(model, "in_channels", 3), getattr(model, "photographs", True)
    fits = pixels.ndim == 3 and len(pixels) == bands and pixels.numel() > 0
    if not fits or (of_photographs and pixels.dtype != torch.uint8):
        raise ValueError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype}: give "
            f"{'an RGB image' if bands == 3 else 'one'} as an (H, W, {bands}) array or a ({bands}, H, W) "
            f"tensor of {'uint8' if of_photographs else 'the values as stored'}"
        )
    return pixels.to(_parameter(model).device, non_blocking=True)


def _parameter(model: Segmenter) -> Tensor:
    return next(model.parameters())


def _one_view(protocol: Protocol) -> bool:
    """Return whether softmax changes no argmax, so that it can wait until probabilities are wanted."""
    return protocol.merge == "softmax" and len(protocol.scales) == 1 and not protocol.flip


@torch.inference_mode()
def iterate_strips(model: Segmenter, image: Tensor, protocol: Protocol) -> Iterator[Strip]:
    """Yield merged scores of the image (C, H, W) as stored, from top to bottom."""
    sliding = _SlidingTiles(model.eval(), image, protocol)
    height = image.shape[1]
    step = sliding.strip_rows()
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield Strip(top, bottom, sliding.scores(top, bottom))
    sliding.check_finite()


class _SlidingTiles:
    """One image under one protocol: the tiles still to run, and the logits of those still needed."""

    def __init__(self, model: Segmenter, image: Tensor, protocol: Protocol) -> None:
        self.model, self.image, self.protocol = model, image, protocol
        self.height, self.width = image.shape[1:]
        self.dtype = _parameter(model).dtype
        # exp of two logits overflows half precision past about 11
        self.exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.views = list_views(self.height, self.width, protocol)
        self.pending_tiles = deque(list_tiles(self.height, self.width, protocol))
        self.resized_images: dict[tuple[int, ...], Tensor] = {}  # (C, h, w) by size, if resized as stored
        if protocol.resize_as == "uint8":
            sizes = {view[:2] for view in self.views}
            self.resized_images = {size: resample.resize_uint8(image, *size) for size in sizes}
        self.tile_logits: dict[Tile, Tensor] = {}  # (h, w, K) at the resolution of the head
        black = torch.tensor(getattr(model, "black", [0.0] * len(image)), device=image.device)
        self.black = model.normalize(black.view(1, -1, 1, 1))[0].to(self.exact)
        self.align_corners = getattr(model, "align_corners", True)  # idle in a model without a head
        self.axis = partial(resample.interpolation_taps, device=image.device, dtype=self.exact)
        self.has_nonfinite: Tensor | None = None

    def strip_rows(self) -> int:
        """Return the number of image rows to finish at a time."""
        budget = STRIP_BYTES.get(self.image.device.type, STRIP_BYTES["cpu"])
        if self.protocol.memory != "auto":
            budget = min(budget, int(self.protocol.memory * 2**30 / 8))
        widest = max([self.width] + [view.width * max(1, view.height / self.height) for view in self.views])
        row = 4 * self.model.num_classes * widest * self.exact.itemsize  # 4: source, sum, part, result
        return max(1, int(budget / row))

    def scores(self, image_top: int, image_bottom: int) -> Tensor:
        """Return the scores (rows, W, K) of some rows of the image; called from top to bottom."""
        while self.pending_tiles and self.pending_tiles[0].image_first < image_bottom:
            self.run_batch()
        total = self.view_scores(0, image_top, image_bottom)
        for index in range(1, len(self.views)):
            total.add_(self.view_scores(index, image_top, image_bottom))
        self.tile_logits = {
            tile: logits for tile, logits in self.tile_logits.items() if tile.image_last >= image_bottom
        }
        return total

    def run_batch(self) -> None:
        """Run the next tiles of one shape, as many as fit into a batch."""
        room = self.protocol.batch_pixels or BATCH_PIXELS.get(self.image.device.type, BATCH_PIXELS["cpu"])
        if self.protocol.memory != "auto":
            room = min(room, int(self.protocol.memory * 2**30 / 2 / BYTES_PER_PIXEL))
        shape = self.pending_tiles[0].shape
        is_mirrored = self.protocol.flip and self.protocol.merge == "exp"
        most = max(1, room // (shape[0] * shape[1]))  # crops in a batch
        batch = [self.pending_tiles.popleft()]
        while self.pending_tiles and self.pending_tiles[0].shape == shape:
            if (len(batch) + 1) * (1 + is_mirrored) > most:
                break
            batch.append(self.pending_tiles.popleft())
        crops = torch.stack([self.crop_tile(tile) for tile in batch])
        if is_mirrored:
            crops = torch.cat([crops, crops.flip(3)])
        logits = torch.cat([self.forward(part) for part in crops.to(self.dtype).split(most)])
        if is_mirrored:
            logits = logits[: len(batch)] + logits[len(batch) :].flip(3)
        has_nonfinite = ~torch.isfinite(logits).all()
        if self.has_nonfinite is None:
            self.has_nonfinite = has_nonfinite
            self.check_finite()
        self.has_nonfinite = self.has_nonfinite | has_nonfinite
        self.tile_logits.update(zip(batch, logits.permute(0, 2, 3, 1).contiguous(), strict=True))

    def check_finite(self) -> None:
        """Refuse logits that are not finite.

        It makes the host wait for the device, so it is called after the first tiles and at the end alone.
        """
        if self.has_nonfinite:
            raise ValueError(
                "the network returned NaN or infinity: its weights are broken (a run that diverged?) or the "
                "precision is too low; look at train/loss, or try evaluation.precision=float32"
            )

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (B, K, h, w) at the resolution of the head; resizing is linear and can wait."""
        if _is_channels_last(self.model):
            crops = crops.contiguous(memory_format=torch.channels_last)
        if hasattr(self.model, "backbone") and hasattr(self.model, "head"):
            logits = self.model.head(self.model.backbone(crops))
        else:
            logits = self.model(crops).main
        return logits.to(self.exact)

    def crop_tile(self, tile: Tile) -> Tensor:
        """Return the pixels (C, *shape) of a tile of the resized, normalized image, black beyond it."""
        view = self.views[tile.view]
        left, right = tile.view_left, tile.view_right
        if view.mirrored:
            left, right = view.width - right, view.width - left
        pixels = self.resized(view, (tile.view_top, tile.view_bottom), (left, right))
        if view.mirrored:
            pixels = pixels.flip(2)
        if pixels.shape[1:] == tile.shape:
            return pixels
        padded = self.black.expand(len(self.black), *tile.shape).clone()
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded

    def resized(self, view: View, view_rows: tuple[int, int], view_columns: tuple[int, int]) -> Tensor:
        """Return pixels (C, rows, columns) of a part of the resized, normalized image."""
        if self.resized_images:
            part = self.resized_images[view[:2]][None, :, slice(*view_rows), slice(*view_columns)]
            return self.model.normalize(part)[0].to(self.exact)
        align = self.protocol.align_corners
        rows = resample.slice_taps(self.axis(self.height, view.height, align_corners=align), *view_rows)
        columns = resample.slice_taps(self.axis(self.width, view.width, align_corners=align), *view_columns)
        (image_top, image_bottom), (image_left, image_right) = (
            resample.source_range(rows),
            resample.source_range(columns),
        )
        pixels = self.image[None, :, image_top:image_bottom, image_left:image_right]
        pixels = self.model.normalize(pixels)[0].to(self.exact)
        if view.height != self.height:
            pixels = resample.resize_axis(pixels, 1, rows, image_top)
        if view.width != self.width:
            pixels = resample.resize_axis(pixels, 2, columns, image_left)
        return pixels[:, : view_rows[1] - view_rows[0], : view_columns[1] - view_columns[0]]

    def view_scores(self, index: int, image_top: int, image_bottom: int) -> Tensor:
        """Return the scores of one view for some rows of the image, ready to be summed."""
        view, align = self.views[index], self.protocol.align_corners
        part = resample.slice_taps(
            self.axis(view.height, self.height, align_corners=align), image_top, image_bottom
        )
        is_resized = view.height != self.height
        view_top, view_bottom = resample.source_range(part) if is_resized else (image_top, image_bottom)
        rows = self.merged_tiles(index, view_top, view_bottom)
        if is_resized:
            rows = resample.resize_axis(rows, 0, part, view_top)
        rows = resample.resize_columns(rows, self.width, align_corners=align)
        if view.mirrored:
            rows = rows.flip(1)
        return rows.softmax(2) if self.protocol.merge == "softmax" and not _one_view(self.protocol) else rows

    def merged_tiles(self, index: int, view_top: int, view_bottom: int) -> Tensor:
        """Return the mean over tiles (rows, w, K) of some rows of a view, at the view's own size."""
        view = self.views[index]
        touching = [
            tile
            for tile in self.tile_logits
            if tile.view == index and max(tile.view_top, view_top) < min(tile.view_bottom, view_bottom)
        ]
        total = visits = None
        for tile in touching:
            top, bottom = max(tile.view_top, view_top), min(tile.view_bottom, view_bottom)
            rows = self.upsample_tile(tile, top, bottom)
            if len(touching) == 1 and rows.shape[:2] == (view_bottom - view_top, view.width):
                return rows  # the mean of one
            if total is None or visits is None:
                total = rows.new_zeros(view_bottom - view_top, view.width, rows.shape[2])
                visits = rows.new_zeros(view_bottom - view_top, view.width, 1)
            place = slice(top - view_top, bottom - view_top), slice(tile.view_left, tile.view_right)
            total[place] += rows
            visits[place] += 1
        assert total is not None
        assert visits is not None
        return total.div_(visits)

    def upsample_tile(self, tile: Tile, view_top: int, view_bottom: int) -> Tensor:
        """Return some rows of a tile's logits (rows, columns inside the view, K), at the view's own size."""
        logits, (tile_height, tile_width) = self.tile_logits[tile], tile.shape
        tile_top, tile_bottom = view_top - tile.view_top, view_bottom - tile.view_top
        if logits.shape[0] == tile_height:
            rows = logits[tile_top:tile_bottom]
        else:
            axis = self.axis(logits.shape[0], tile_height, align_corners=self.align_corners)
            rows = resample.resize_axis(logits, 0, resample.slice_taps(axis, tile_top, tile_bottom))
        rows = resample.resize_columns(rows, tile_width, align_corners=self.align_corners)
        rows = rows[:, : tile.view_right - tile.view_left]
        return rows.exp() if self.protocol.merge == "exp" else rows


def _is_channels_last(model: Segmenter) -> bool:
    return any(
        weight.ndim == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in model.parameters()
    )
