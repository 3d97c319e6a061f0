"""Sums over the pixels of logits, a few lines of an image at a time, so that no second copy of them exists.

With 150 classes the logits are by far the largest tensor of a training, and a softmax of all of them, in
float32, several times as large. Here each chunk is turned into what the loss needs of it and forgotten; the
backward pass computes it again and writes the chunk's gradient where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST = 2**20  # numbers in a chunk on a CPU: 4 MB in float32, which a cache holds
ON_DEVICES = 16  # times as many on a GPU, where starting many small operations would take longer than they do


class Chunk(NamedTuple):
    """Some whole lines of one image; n pixels of them."""

    logits: Tensor  # (K, n), float32 or float64
    target: Tensor  # (n,) int64
    image: int  # its number in the batch
    lines: slice  # of the image's height


Measure = Callable[[Chunk], Tensor]


def cut(logits: Tensor, target: Tensor) -> Iterator[Chunk]:
    """All pixels of (B, K, H, W) logits and (B, H, W) target, image after image."""
    _, num_classes, height, width = logits.shape
    largest = LARGEST if logits.device.type == "cpu" else LARGEST * ON_DEVICES
    step = max(1, largest // max(1, num_classes * width))
    precise = torch.promote_types(logits.dtype, torch.float32)  # sums in half precision would be of no use
    for image in range(len(logits)):
        for top in range(0, height, step):
            lines = slice(top, top + step)
            values = logits[image, :, lines].flatten(1).to(precise)
            yield Chunk(values, target[image, lines].flatten(), image, lines)


def summed(logits: Tensor, target: Tensor, measure: Measure) -> Tensor:
    """For each image the sum over its chunks of what is measured of them, (B, ...).

    Args:
        logits: (B, K, H, W); gradients flow into them.
        target: (B, H, W) int64.
        measure: of a chunk; differentiable, and the same whenever it is called.
    """
    if torch.compiler.is_compiling():  # the compiler fuses what is below by itself, and cannot see into it
        return _sums(logits, target, measure)
    return _Summed.apply(logits, target, measure)  # pyright: ignore[reportReturnType]


def _sums(logits: Tensor, target: Tensor, measure: Measure) -> Tensor:
    sums: list[Any] = [0] * len(logits)
    for chunk in cut(logits, target):
        sums[chunk.image] = sums[chunk.image] + measure(chunk)
    return torch.stack(sums)


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
        for chunk in cut(logits, target):
            with torch.enable_grad():
                values = chunk.logits.detach().requires_grad_()
                measured = ctx.measure(chunk._replace(logits=values))
                # a product, as giving autograd the vector imports sympy: 1.7 s and 70 MB
                scalar = (measured * grad_outputs[0][chunk.image]).sum()
            (found,) = torch.autograd.grad(scalar, values)
            into = gradient[chunk.image, :, chunk.lines]
            into.copy_(found.unflatten(1, into.shape[1:]))
        return gradient, None, None
