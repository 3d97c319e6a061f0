"""Global average pooling whose gradient is a number for each channel, and no map.

A pooled map is used twice, to be described and to be scaled, so that two gradients of it are added. Plain
autograd writes that of the mean, which is the same everywhere, at full size first, in a layout of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pooled(x: Tensor) -> Tensor:
    """The mean over height and width, (B, C, H, W) to (B, C, 1, 1)."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return x.mean((2, 3), keepdim=True)
    return _Pooled.apply(x)  # pyright: ignore[reportReturnType]


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad_outputs[0] / math.prod(ctx.size[2:])).expand(ctx.size)
