"""Split-Attention and global pooling with gradients that are written once.

Plain autograd makes the gradient of each split and joins them afterwards, and writes that of the pooled map,
which is the same everywhere, at full size and in another layout before the two are added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.cpu.recompute import note
from segkit.models.layers.blend import weighted_sum
from segkit.models.layers.split_attention import SplitAttention


class FastSplitAttention(SplitAttention):
    """``SplitAttention`` whose splits and pooled map have gradients of their own."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C, H/stride, W/stride)."""
        if not self.training or torch.compiler.is_compiling():
            return super().forward(x)
        x = self.relu(self.drop(self.bn0(self.conv(x))))
        means = global_mean(x).unflatten(1, (self.radix, -1)).sum(1)
        scores = self.fc2(self.relu(self.bn1(self.fc1(means))))
        return weighted_splits(x, self.attention(scores))


def global_mean(x: Tensor) -> Tensor:
    """Return the mean over height and width, (B, C, H, W) to (B, C, 1, 1)."""
    return _Pooled.apply(x)  # pyright: ignore[reportReturnType]


def weighted_splits(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over i of ``weights[:, i]`` times the i-th of equal parts of the channels.

    Args:
        x: (B, M * C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(x.dtype)
    result: Any = _Splits.apply(x, weights)
    return note(result, _sum_of_splits, x, weights.detach())


def _sum_of_splits(x: Tensor, weights: Tensor) -> Tensor:
    return weighted_sum(x.chunk(weights.shape[1], 1), weights)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad_outputs[0] / math.prod(ctx.size[2:])).expand(ctx.size)


class _Splits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return _sum_of_splits(x, weights)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, weights = ctx.saved_tensors
        (gradient,) = grad_outputs
        of_x, of_weights = torch.empty_like(x), torch.empty_like(weights)
        count = weights.shape[1]
        for i, (part, of_part) in enumerate(zip(x.chunk(count, 1), of_x.chunk(count, 1), strict=True)):
            torch.mul(gradient, weights[:, i], out=of_part)
            of_weights[:, i] = (gradient * part).sum((2, 3), keepdim=True)
        return of_x, of_weights
