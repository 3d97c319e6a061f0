"""Sums over the pixels of logits, a few lines of an image at a time, so that no second copy of them exists.

With 150 classes the logits are by far the largest tensor of a training, and a softmax of all of them, in
float32, several times as large. Here each chunk is turned into what the loss needs of it and forgotten; the
backward pass computes it again and writes the chunk's gradient where it belongs. Logits that come at the size
of the head are resized here, chunk by chunk, so that at the image's size there is never more than a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST = 2**20  # elements of a chunk, 4 MB in float32
ON_DEVICES = 16  # times as many on a GPU, where launching many small kernels would take longer than they run
FEW_CLASSES = 16  # below which a softmax over classes that lie side by side is up to five times slower


class HeadLogits(NamedTuple):
    """Logits at the size of a head, which stand for those at the size of the label."""

    cells: Tensor  # (B, K, h, w)
    align_corners: bool

    def full(self, target: Tensor) -> Tensor:
        """(B, K, H, W), as large as the target."""
        size = tuple(target.shape[1:])
        return F.interpolate(self.cells, size, mode="bilinear", align_corners=self.align_corners)


class Chunk(NamedTuple):
    """Some whole lines of one image; n pixels of them."""

    logits: Tensor  # (K, n), float32 or float64
    target: Tensor  # (n,) int64
    image: int  # its number in the batch
    lines: slice  # of the image's height


Measure = Callable[[Chunk], Tensor]


def iterate_chunks(logits: Tensor | HeadLogits, target: Tensor) -> Iterator[Chunk]:
    """All pixels of (B, K, H, W) logits and (B, H, W) target, image after image."""
    if isinstance(logits, HeadLogits):
        for image, cells in enumerate(logits.cells):
            wide = _widened(cells, target.shape[2], align_corners=logits.align_corners)
            for lines, near, weights in _taps(wide, target, align_corners=logits.align_corners):
                yield Chunk(_resized(wide, near, weights), target[image, lines].flatten(), image, lines)
        return
    precise = _precise(logits)
    for image in range(len(logits)):
        for lines in _pieces(logits.shape[1], target):
            values = logits[image, :, lines].flatten(1).to(precise)
            yield Chunk(values, target[image, lines].flatten(), image, lines)


def _precise(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)  # sums in half precision would be of no use


def _pieces(num_classes: int, target: Tensor) -> Iterator[slice]:
    """Lines of an image, as many at a time as make a chunk."""
    _, height, width = target.shape
    largest = LARGEST if target.device.type == "cpu" else LARGEST * ON_DEVICES
    step = max(1, largest // max(1, num_classes * width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _widened(cells: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """(K, h, w) to (h, W, K): classes last, where one matrix product resizes the other axis."""
    rows = cells.to(_precise(cells)).permute(1, 0, 2)[:, :, None]  # (h, K, 1, w)
    rows = rows.contiguous(memory_format=torch.channels_last)
    wide = F.interpolate(rows, (1, width), mode="bilinear", align_corners=align_corners)
    return wide.permute(0, 2, 3, 1)[:, 0].contiguous()  # a view as it is, but for sizes of one


def _taps(wide: Tensor, target: Tensor, *, align_corners: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Lines of each chunk, the rows (a, b) they come from, and by which weights (lines, b - a)."""
    rows, height = len(wide), target.shape[1]
    unit = torch.eye(rows, dtype=wide.dtype)[None, :, :, None]
    weights = F.interpolate(unit, (height, 1), mode="bilinear", align_corners=align_corners)[0, :, :, 0].T
    first = (weights != 0).to(torch.uint8).argmax(1).tolist()  # not on a GPU, which it would wait for
    weights = weights.to(wide.device)
    for lines in _pieces(wide.shape[2], target):
        near = slice(first[lines.start], min(first[lines.stop - 1] + 2, rows))
        yield lines, near, weights[lines, near]


def _resized(wide: Tensor, near: slice, weights: Tensor) -> Tensor:
    """Return (K, n) of the chunk's lines; many classes stay side by side, few are laid out one by one."""
    rows = weights @ wide[near].flatten(1)
    values = rows.view(-1, wide.shape[2]).T
    return values.contiguous() if len(values) < FEW_CLASSES else values


def chunked_sum(logits: Tensor | HeadLogits, target: Tensor, measure: Measure) -> Tensor:
    """For each image the sum over its chunks of what is measured of them, (B, ...).

    Args:
        logits: (B, K, H, W), or coarser; gradients flow into them.
        target: (B, H, W) int64.
        measure: of a chunk; differentiable, and the same whenever it is called.
    """
    if torch.compiler.is_compiling():  # the compiler fuses what is below by itself, and cannot see into it
        return _sums(logits.full(target) if isinstance(logits, HeadLogits) else logits, target, measure)
    if isinstance(logits, HeadLogits):
        return _SummedCoarse.apply(logits.cells, logits.align_corners, target, measure)  # pyright: ignore[reportReturnType]
    return _Summed.apply(logits, target, measure)  # pyright: ignore[reportReturnType]


def _sums(logits: Tensor | HeadLogits, target: Tensor, measure: Measure) -> Tensor:
    sums: list[Any] = [0] * len(target)
    for chunk in iterate_chunks(logits, target):
        sums[chunk.image] = sums[chunk.image] + measure(chunk)
    return torch.stack(sums)


def _gradient(chunk: Chunk, measure: Measure, of_sum: Tensor) -> Tensor:
    """Of a chunk's share of its image's sum, (K, n)."""
    with torch.enable_grad():
        values = chunk.logits.detach().requires_grad_()
        # a product, as giving autograd the vector imports sympy: 1.7 s and 70 MB
        scalar = (measure(chunk._replace(logits=values)) * of_sum).sum()
    return torch.autograd.grad(scalar, values)[0]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, measure: Measure) -> Tensor:
        ctx.save_for_backward(logits, target)
        ctx.measure = measure
        return _sums(logits, target, measure)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for chunk in iterate_chunks(logits, target):
            into = gradient[chunk.image, :, chunk.lines]
            part = _gradient(chunk, ctx.measure, grad_outputs[0][chunk.image])
            into.copy_(part.unflatten(1, into.shape[1:]))
        return gradient, None, None


class _SummedCoarse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, align_corners: bool, target: Tensor, measure: Measure) -> Tensor:  # noqa: FBT001
        ctx.save_for_backward(cells, target)
        ctx.measure, ctx.align_corners = measure, align_corners
        return _sums(HeadLogits(cells, align_corners), target, measure)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None]:
        cells, target = ctx.saved_tensors
        align = ctx.align_corners
        gradient = torch.empty_like(cells)
        for image in range(len(cells)):
            with torch.enable_grad():
                source = cells[image].detach().requires_grad_()
                wide = _widened(source, target.shape[2], align_corners=align)
            of_wide = torch.zeros_like(wide)
            for lines, near, weights in _taps(wide.detach(), target, align_corners=align):
                values = _resized(wide.detach(), near, weights)
                chunk = Chunk(values, target[image, lines].flatten(), image, lines)
                part = _gradient(chunk, ctx.measure, grad_outputs[0][image])
                of_lines = part.T.reshape(len(weights), -1)  # (lines, W * K)
                of_wide[near].view(weights.shape[1], -1).addmm_(weights.T, of_lines)
            with torch.enable_grad():
                scalar = (wide * of_wide).sum()
            gradient[image] = torch.autograd.grad(scalar, source)[0]
        return gradient, None, None, None
