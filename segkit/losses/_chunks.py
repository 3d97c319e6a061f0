"""Sums over the pixels of logits, a few rows of an image at a time.

With 150 classes the logits are the largest tensor of a training, and their softmax in float32 is larger
still. Here the loss is computed for one chunk after the other, in the forward and again in the backward pass,
so neither exists at full size. Logits at the size of a head are resized chunk by chunk, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**20  # 4 MB in float32
GPU_FACTOR = 16  # larger chunks on a GPU, where launching many small kernels would take longer than they run
FEW_CLASSES = 16  # with fewer, a softmax over classes that lie side by side is up to five times slower


class HeadLogits(NamedTuple):
    """Logits of a head; if they are smaller than the label, they are resized to it."""

    logits: Tensor  # (B, K, h, w)
    align_corners: bool

    def resize(self, target: Tensor) -> HeadLogits:
        """Return logits (B, K, H, W) of the target's size."""
        if self.has_size_of(target):
            return self
        size = tuple(target.shape[1:])
        resized = F.interpolate(self.logits, size, mode="bilinear", align_corners=self.align_corners)
        return HeadLogits(resized, self.align_corners)

    def has_size_of(self, target: Tensor) -> bool:
        """Return whether each logit belongs to one pixel of the target."""
        return self.logits.shape[2:] == target.shape[1:]


class Chunk(NamedTuple):
    """Some rows of one image, n pixels."""

    logits: Tensor  # (K, n), float32 or float64
    target: Tensor  # (n,) int64
    image: int  # index in the batch
    rows: slice


ChunkLoss = Callable[[Chunk], Tensor]


def iterate_chunks(head: HeadLogits, target: Tensor) -> Iterator[Chunk]:
    """Yield all pixels of logits and their (B, H, W) target, image after image."""
    for image, logits in enumerate(head.logits):
        if head.has_size_of(target):
            for rows in _row_slices(len(logits), target):
                values = logits[:, rows].flatten(1).to(_sum_dtype(logits))
                yield Chunk(values, target[image, rows].flatten(), image, rows)
        else:
            wide = _resize_columns(logits, target.shape[2], align_corners=head.align_corners)
            for rows, source, weights in _iterate_rows(wide, target, align_corners=head.align_corners):
                values = _resize_rows(wide[source], weights)
                yield Chunk(values, target[image, rows].flatten(), image, rows)


def _sum_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)  # half precision is too coarse for sums


def _row_slices(num_classes: int, target: Tensor) -> Iterator[slice]:
    """Yield the rows of each chunk of an image."""
    _, height, width = target.shape
    elements = CHUNK_ELEMENTS
    if target.device.type != "cpu":
        elements *= GPU_FACTOR
    step = max(1, elements // max(1, num_classes * width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _resize_columns(logits: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """Return (h, W, K) for (K, h, w): classes last, so that one matrix product resizes the rows."""
    rows = logits.to(_sum_dtype(logits)).permute(1, 0, 2)[:, :, None]  # (h, K, 1, w)
    rows = rows.contiguous(memory_format=torch.channels_last)
    wide = F.interpolate(rows, (1, width), mode="bilinear", align_corners=align_corners)
    return wide.permute(0, 2, 3, 1)[:, 0].contiguous()  # no copy, except for sizes of one


def _iterate_rows(
    wide: Tensor, target: Tensor, *, align_corners: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the rows of each chunk, the rows (a, b) of ``wide`` they come from, and weights (rows, b - a)."""
    count, height = len(wide), target.shape[1]
    unit = torch.eye(count, dtype=wide.dtype)[None, :, :, None]
    weights = F.interpolate(unit, (height, 1), mode="bilinear", align_corners=align_corners)[0, :, :, 0].T
    first = (weights != 0).to(torch.uint8).argmax(1).tolist()  # on the CPU: a GPU would have to be waited for
    weights = weights.to(wide.device)
    for rows in _row_slices(wide.shape[2], target):
        source = slice(first[rows.start], min(first[rows.stop - 1] + 2, count))
        yield rows, source, weights[rows, source]


def _resize_rows(wide: Tensor, weights: Tensor) -> Tensor:
    """Return the logits (K, n) of a chunk; many classes stay side by side in memory, few do not."""
    values = (weights @ wide.flatten(1)).view(-1, wide.shape[2]).T
    if len(values) < FEW_CLASSES:
        return values.contiguous()
    return values


def chunked_sum(head: HeadLogits, target: Tensor, loss: ChunkLoss) -> Tensor:
    """Return for each image the sum of a loss over its chunks, (B, ...).

    Args:
        head: gradients flow into its logits.
        target: (B, H, W) int64.
        loss: of a chunk; differentiable and deterministic.
    """
    if torch.compiler.is_compiling():  # the compiler fuses plain operations and cannot look into the others
        return _sum_chunks(head.resize(target), target, loss)
    return _ChunkedSum.apply(head.logits, head.align_corners, target, loss)  # pyright: ignore[reportReturnType]


def _sum_chunks(head: HeadLogits, target: Tensor, loss: ChunkLoss) -> Tensor:
    sums: list[Any] = [0] * len(target)
    for chunk in iterate_chunks(head, target):
        sums[chunk.image] = sums[chunk.image] + loss(chunk)
    return torch.stack(sums)


def _chunk_gradient(chunk: Chunk, loss: ChunkLoss, grad_sum: Tensor) -> Tensor:
    """Return the gradient (K, n) of a chunk's logits from that of its image's sum."""
    with torch.enable_grad():
        values = chunk.logits.detach().requires_grad_()
        # a scalar, as passing the vector to autograd imports sympy: 1.7 s and 70 MB
        scalar = (loss(chunk._replace(logits=values)) * grad_sum).sum()
    return torch.autograd.grad(scalar, values)[0]


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, align_corners: bool, target: Tensor, loss: ChunkLoss) -> Tensor:  # noqa: FBT001
        ctx.save_for_backward(logits, target)
        ctx.loss, ctx.align_corners = loss, align_corners
        return _sum_chunks(HeadLogits(logits, align_corners), target, loss)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_sums: Tensor
    ) -> tuple[Tensor, None, None, None]:
        logits, target = ctx.saved_tensors
        head, gradient = HeadLogits(logits, ctx.align_corners), torch.empty_like(logits)
        if head.has_size_of(target):
            for chunk in iterate_chunks(head, target):
                view = gradient[chunk.image, :, chunk.rows]
                grad_chunk = _chunk_gradient(chunk, ctx.loss, grad_sums[chunk.image])
                view.copy_(grad_chunk.unflatten(1, view.shape[1:]))
        else:
            for image, grad_sum in enumerate(grad_sums):
                gradient[image] = _image_gradient(head, target, image, ctx.loss, grad_sum)
        return gradient, None, None, None


def _image_gradient(
    head: HeadLogits, target: Tensor, image: int, loss: ChunkLoss, grad_sum: Tensor
) -> Tensor:
    """Return the gradient (K, h, w) of the logits of one image, which are smaller than its target."""
    with torch.enable_grad():
        leaf = head.logits[image].detach().requires_grad_()
        wide = _resize_columns(leaf, target.shape[2], align_corners=head.align_corners)
    values, grad_wide = wide.detach(), torch.zeros_like(wide)
    for rows, source, weights in _iterate_rows(values, target, align_corners=head.align_corners):
        chunk = Chunk(_resize_rows(values[source], weights), target[image, rows].flatten(), image, rows)
        grad_rows = _chunk_gradient(chunk, loss, grad_sum).T.reshape(len(weights), -1)  # (rows, W * K)
        grad_wide[source].view(weights.shape[1], -1).addmm_(weights.T, grad_rows)
    with torch.enable_grad():
        scalar = (wide * grad_wide).sum()
    return torch.autograd.grad(scalar, leaf)[0]
