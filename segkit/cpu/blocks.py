"""Split-Attention and image pooling whose gradients are written once.

Plain autograd makes the gradient of each split and joins them afterwards. It writes the gradient of a pooled
map, which is the same everywhere, at full size and in another layout before the two are added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.cpu.recompute import register_result
from segkit.models.layers.aspp import ImagePooling
from segkit.models.layers.blend import weighted_sum
from segkit.models.layers.split_attention import SplitAttention


class FastSplitAttention(SplitAttention):
    """``SplitAttention`` with its own gradients for the splits and the pooled map."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C, H/stride, W/stride)."""
        if not self.training or torch.compiler.is_compiling():
            return super().forward(x)
        x = self.relu(self.drop(self.bn0(self.conv(x))))
        means = global_mean(x).unflatten(1, (self.radix, -1)).sum(1)
        scores = self.fc2(self.relu(self.bn1(self.fc1(means))))
        return weighted_splits(x, self.attention(scores))


class FastImagePooling(ImagePooling):
    """``ImagePooling`` whose result has the memory format of its input.

    An expanded mean has no layout, so joining it to channels-last maps would convert all of them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w) to (B, width, h, w)."""
        if not self.training or torch.compiler.is_compiling():
            return super().forward(x).contiguous(memory_format=torch.channels_last)
        layout = torch.contiguous_format
        if x.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        return self.gap(global_mean(x)).expand(-1, -1, *x.shape[2:]).contiguous(memory_format=layout)


def global_mean(x: Tensor) -> Tensor:
    """Return the mean over height and width, (B, C, H, W) to (B, C, 1, 1)."""
    return _GlobalMean.apply(x)  # pyright: ignore[reportReturnType]


def weighted_splits(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over i of ``weights[:, i]`` times the i-th of equal parts of the channels.

    Args:
        x: (B, M * C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(x.dtype)
    result: Any = _WeightedSplits.apply(x, weights)
    return register_result(result, _sum_splits, x, weights.detach())


def _sum_splits(x: Tensor, weights: Tensor) -> Tensor:
    return weighted_sum(x.chunk(weights.shape[1], 1), weights)


class _GlobalMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad_outputs[0] / math.prod(ctx.size[2:])).expand(ctx.size)


class _WeightedSplits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return _sum_splits(x, weights)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, weights = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_x, grad_weights = torch.empty_like(x), torch.empty_like(weights)
        count = weights.shape[1]
        for i, (split, grad_split) in enumerate(zip(x.chunk(count, 1), grad_x.chunk(count, 1), strict=True)):
            torch.mul(grad, weights[:, i], out=grad_split)
            grad_weights[:, i] = (grad * split).sum((2, 3), keepdim=True)
        return grad_x, grad_weights
