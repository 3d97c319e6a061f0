"""Weighted sums of feature maps, one after the other: no stack of them all is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.models.layers.recompute import told


def weighted_sum(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum over i of ``weights[:, i] * maps[i]``.

    Args:
        maps: M of (B, C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(maps[0].dtype)  # softmax leaves autocast in float32
    fixed = weights.detach()
    return told(_blended(maps, weights), lambda *again: _blended(again, fixed), *maps)


def weighted_splits(x: Tensor, weights: Tensor) -> Tensor:
    """Sum over i of ``weights[:, i]`` times the i-th of equal parts of the channels.

    Args:
        x: (B, M * C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(x.dtype)
    fixed = weights.detach()
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return _of_splits(x, weights)
    return told(_Splits.apply(x, weights), lambda again: _of_splits(again, fixed), x)  # pyright: ignore[reportArgumentType]


def _of_splits(x: Tensor, weights: Tensor) -> Tensor:
    return _blended(x.chunk(weights.shape[1], 1), weights)


def _blended(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    out = maps[0] * weights[:, 0]
    for i in range(1, len(maps)):
        out = torch.addcmul(out, maps[i], weights[:, i])
    return out


class _Splits(torch.autograd.Function):
    """The gradient of each part is written where it belongs; plain autograd makes them and then a whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return _of_splits(x, weights)

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
