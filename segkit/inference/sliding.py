"""From an image to class ids, in strips: nothing of the size image x classes is ever held.

What the network says about a window is kept at the resolution of its head, where it is small. The rows of
the image are then finished strip by strip: for each view the windows that touch the strip are enlarged,
merged and resized to the image, and forgotten when the last row that needs them is done. Windows run just
before their first row is due, so an image of any height needs the memory of the windows one strip touches.
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
from segkit.inference import windows as geometry
from segkit.inference.protocols import Protocol
from segkit.inference.windows import View, Window
from segkit.types import id_type

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

STRIP_BYTES = {"cpu": 24 * 2**20, "cuda": 2**30}  # of a strip's working memory: on a CPU what its caches hold
BATCH_PIXELS = {"cpu": 240_000, "cuda": 2_000_000}  # a CPU is 15-20 % faster when a window fits its caches
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
    """The class of each pixel.

    Args:
        model: a segmenter; ``segkit.inference.preparation`` makes it faster.
        image: (H, W, C) array or (C, H, W) tensor, as stored: uint8 RGB of photographs.
        protocol: scales, flips and windows.
        on_strip: called with each strip of merged scores, from top to bottom.

    Returns:
        (H, W) class ids on the model's device, at the image's own size.

    Raises:
        ValueError: the image is of another kind, or the network returned something that is no number.
    """
    pixels = _on_device(model, image)
    if on_strip is None and (classify := getattr(model, "classify", None)):  # an exported file that gives ids
        return classify(pixels, protocol)
    ids = pixels.new_empty(pixels.shape[1:], dtype=getattr(torch, id_type(model.num_classes)))
    for strip in strips(model, pixels, protocol):
        if on_strip:
            on_strip(strip)
        ids[strip.top : strip.bottom] = strip.scores.argmax(2)
    return ids


def probabilities(model: Segmenter, image: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """As ``predict``, but (K, H, W) probabilities on the CPU: merged scores, with sum 1 at each pixel."""
    parts = []
    for strip in strips(model, _on_device(model, image), protocol):
        merged = strip.scores
        if protocol.merge == "logits" or _one_view(protocol):
            merged = merged.softmax(2)
        parts.append((merged / merged.sum(2, keepdim=True)).cpu())
    return torch.cat(parts).permute(2, 0, 1)


def merged_logits(scores: Tensor, protocol: Protocol) -> Tensor:
    """Merged scores (..., K) of a strip as values whose softmax are the merged probabilities."""
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
    """Whether softmax changes no argmax, so that it can wait until probabilities are wanted."""
    return protocol.merge == "softmax" and len(protocol.scales) == 1 and not protocol.flip


@torch.inference_mode()
def strips(model: Segmenter, image: Tensor, protocol: Protocol) -> Iterator[Strip]:
    """Merged scores of the image (C, H, W) as stored, from top to bottom."""
    windows = _SlidingWindows(model.eval(), image, protocol)
    height = image.shape[1]
    step = windows.strip_rows()
    for top in range(0, height, step):
        bottom = min(top + step, height)
        yield Strip(top, bottom, windows.scores(top, bottom))
    windows.refuse_broken()


class _SlidingWindows:
    """One image under one protocol: the windows still to run, and what those alive have answered."""

    def __init__(self, model: Segmenter, image: Tensor, protocol: Protocol) -> None:
        self.model, self.image, self.protocol = model, image, protocol
        self.height, self.width = image.shape[1:]
        self.dtype = _parameter(model).dtype
        # exp of two logits overflows half precision past about 11
        self.exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.views = geometry.views(self.height, self.width, protocol)
        self.waiting = deque(geometry.windows_of(self.height, self.width, protocol))
        self.whole: dict[tuple[int, ...], Tensor] = {}  # (C, h, w), where images are resized as stored
        if protocol.resize_as == "uint8":
            sizes = {view[:2] for view in self.views}
            self.whole = {size: resample.as_uint8(image, *size) for size in sizes}
        self.answers: dict[Window, Tensor] = {}  # (h, w, K) logits at the resolution of the head
        black = torch.tensor(getattr(model, "black", [0.0] * len(image)), device=image.device)
        self.black = model.normalise(black.view(1, -1, 1, 1))[0].to(self.exact)
        self.align_corners = getattr(model, "align_corners", True)  # idle in a model without a head
        self.axis = partial(resample.axis, device=image.device, dtype=self.exact)
        self.broken: Tensor | None = None  # whether a window's logits were no numbers

    def strip_rows(self) -> int:
        """Rows of the image to finish at a time."""
        budget = STRIP_BYTES.get(self.image.device.type, STRIP_BYTES["cpu"])
        if self.protocol.memory != "auto":
            budget = min(budget, int(self.protocol.memory * 2**30 / 8))
        widest = max([self.width] + [view.width * max(1, view.height / self.height) for view in self.views])
        row = 4 * self.model.num_classes * widest * self.exact.itemsize  # 4: source, sum, part, result
        return max(1, int(budget / row))

    def scores(self, top: int, bottom: int) -> Tensor:
        """Scores (bottom - top, W, K) of some rows; called from top to bottom."""
        while self.waiting and self.waiting[0].first < bottom:
            self.run_batch()
        total = None
        for index in range(len(self.views)):
            part = self.view_scores(index, top, bottom)
            total = part if total is None else total.add_(part)
        self.answers = {window: cells for window, cells in self.answers.items() if window.last >= bottom}
        assert total is not None
        return total

    def run_batch(self) -> None:
        """Run the next windows of one shape, as many as fit into a batch."""
        room = self.protocol.batch_pixels or BATCH_PIXELS.get(self.image.device.type, BATCH_PIXELS["cpu"])
        if self.protocol.memory != "auto":
            room = min(room, int(self.protocol.memory * 2**30 / 2 / BYTES_PER_PIXEL))
        shape = self.waiting[0].shape
        mirrored = self.protocol.flip and self.protocol.merge == "exp"
        fit = max(1, room // (shape[0] * shape[1]))  # images
        batch = [self.waiting.popleft()]
        while self.waiting and self.waiting[0].shape == shape and (len(batch) + 1) * (1 + mirrored) <= fit:
            batch.append(self.waiting.popleft())
        images = torch.stack([self.cut(window) for window in batch])
        if mirrored:
            images = torch.cat([images, images.flip(3)])
        cells = torch.cat([self.forward(part) for part in images.to(self.dtype).split(fit)])
        if mirrored:
            cells = cells[: len(batch)] + cells[len(batch) :].flip(3)
        broken = ~torch.isfinite(cells).all()
        if self.broken is None:
            self.broken = broken
            self.refuse_broken()
        self.broken = self.broken | broken
        self.answers.update(zip(batch, cells.permute(0, 2, 3, 1).contiguous(), strict=True))

    def refuse_broken(self) -> None:
        """Ask the device, which makes the host wait for it: after the first windows and at the end."""
        if self.broken:
            raise ValueError(
                "the network returned NaN or infinity: its weights are broken (a run that diverged?) or the "
                "precision is too low; look at train/loss, or try evaluation.precision=float32"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w) at the resolution of the head; resizing is linear and can wait."""
        if _is_channels_last(self.model):
            images = images.contiguous(memory_format=torch.channels_last)
        if hasattr(self.model, "backbone") and hasattr(self.model, "head"):
            logits = self.model.head(self.model.backbone(images))
        else:
            logits = self.model(images).main
        return logits.to(self.exact)

    def cut(self, window: Window) -> Tensor:
        """Pixels (3, rows, columns) of a window of the resized, normalised image, black beyond it."""
        view = self.views[window.view]
        left, right = window.left, window.right
        if view.mirrored:
            left, right = view.width - right, view.width - left
        pixels = self.resized(view, (window.top, window.bottom), (left, right))
        if view.mirrored:
            pixels = pixels.flip(2)
        if pixels.shape[1:] == window.shape:
            return pixels
        padded = self.black.expand(len(self.black), *window.shape).clone()
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded

    def resized(self, view: View, down: tuple[int, int], across: tuple[int, int]) -> Tensor:
        """Pixels (3, rows, columns) of some rows and columns of the resized, normalised image."""
        if self.whole:
            part = self.whole[view[:2]][None, :, slice(*down), slice(*across)]
            return self.model.normalise(part)[0].to(self.exact)
        align = self.protocol.align_corners
        rows = resample.section(self.axis(self.height, view.height, align_corners=align), *down)
        columns = resample.section(self.axis(self.width, view.width, align_corners=align), *across)
        (top, bottom), (first, last) = resample.source(rows), resample.source(columns)
        pixels = self.model.normalise(self.image[None, :, top:bottom, first:last])[0].to(self.exact)
        if view.height != self.height:
            pixels = resample.blend(pixels, 1, rows, top)
        if view.width != self.width:
            pixels = resample.blend(pixels, 2, columns, first)
        return pixels[:, : down[1] - down[0], : across[1] - across[0]]

    def view_scores(self, index: int, top: int, bottom: int) -> Tensor:
        """What one view says about some rows, at the width of the image, ready to be summed."""
        view, align = self.views[index], self.protocol.align_corners
        part = resample.section(self.axis(view.height, self.height, align_corners=align), top, bottom)
        resized = view.height != self.height
        first, last = resample.source(part) if resized else (top, bottom)
        rows = self.merged_windows(index, first, last)
        rows = resample.blend(rows, 0, part, first) if resized else rows
        rows = resample.widen(rows, self.width, align_corners=align)
        if view.mirrored:
            rows = rows.flip(1)
        return rows.softmax(2) if self.protocol.merge == "softmax" and not _one_view(self.protocol) else rows

    def merged_windows(self, index: int, first: int, last: int) -> Tensor:
        """Mean over windows (last - first, w, K) of some rows of a view, at the view's own size."""
        view = self.views[index]
        touching = [
            window
            for window in self.answers
            if window.view == index and max(window.top, first) < min(window.bottom, last)
        ]
        total = visits = None
        for window in touching:
            top, bottom = max(window.top, first), min(window.bottom, last)
            rows = self.enlarge(window, self.answers[window], top, bottom)
            if len(touching) == 1 and rows.shape[:2] == (last - first, view.width):
                return rows  # the mean of one
            if total is None or visits is None:
                total = rows.new_zeros(last - first, view.width, rows.shape[2])
                visits = rows.new_zeros(last - first, view.width, 1)
            place = slice(top - first, bottom - first), slice(window.left, window.right)
            total[place] += rows
            visits[place] += 1
        assert total is not None
        assert visits is not None
        return total.div_(visits)

    def enlarge(self, window: Window, cells: Tensor, top: int, bottom: int) -> Tensor:
        """Rows top..bottom of the view of what a window says, (rows, columns inside the view, K)."""
        height, width = window.shape
        if cells.shape[0] == height:
            rows = cells[top - window.top : bottom - window.top]
        else:
            part = self.axis(cells.shape[0], height, align_corners=self.align_corners)
            rows = resample.blend(cells, 0, resample.section(part, top - window.top, bottom - window.top))
        rows = resample.widen(rows, width, align_corners=self.align_corners)[:, : window.right - window.left]
        return rows.exp() if self.protocol.merge == "exp" else rows


def _is_channels_last(model: Segmenter) -> bool:
    return any(
        weight.ndim == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in model.parameters()
    )
