"""Dilated 3x3 convolutions whose weight gradient skips the padding.

At rate 36, the outer taps of a 3x3 meet padding on 60 % of the rows and columns of a map of 60 cells. oneDNN
skips it in the forward pass and in the gradient of the input, but not in the gradient of the weight, which
takes up to 12 times as long as the forward pass. Here it is one matrix product for each tap and image, over
the cells where the tap meets the map:

    dW[:, :, i, j] = sum over n, y, x of g[n, :, y, x] * input[n, :, y + d_i, x + d_j]^T
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MAX_SHARE_INSIDE = 0.7  # share of products inside the map above which oneDNN's own gradient is as fast


class DilatedConv2d(nn.Conv2d):
    """Replaces an ``nn.Conv2d`` for which ``is_dilated_3x3`` is true; results differ in rounding only."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) to (B, O, h, w)."""
        dilation = self.dilation[0]
        needs_gradient = self.training and self.weight.requires_grad
        is_worthwhile = share_inside(input.shape[2:], dilation) <= MAX_SHARE_INSIDE
        is_supported = input.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (needs_gradient and is_worthwhile and is_supported):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        return _DilatedConvolution.apply(input, self.weight, dilation)  # pyright: ignore[reportReturnType]


def is_dilated_3x3(module: nn.Module) -> bool:
    """Return whether this is a dilated 3x3 convolution of one group without bias that keeps the size."""
    if type(module) is not nn.Conv2d or module.bias is not None or module.padding_mode != "zeros":
        return False
    dilation = module.dilation[0]
    shape = module.kernel_size, module.stride, module.padding, module.dilation, module.groups
    return dilation > 1 and shape == ((3, 3), (1, 1), (dilation, dilation), (dilation, dilation), 1)


def share_inside(size: torch.Size, dilation: int) -> float:
    """Return the share of a dilated 3x3's products that meet no padding on a map of this size."""
    return math.prod((1 + 2 * max(0, side - dilation) / side) / 3 for side in size)


class _DilatedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.dilation = dilation
        return F.conv2d(input, weight.to(input.dtype), padding=dilation, dilation=dilation)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor, None]:
        input, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_input = None
        if ctx.needs_input_grad[0]:
            dilation, rounded = [ctx.dilation] * 2, weight.to(input.dtype)
            shape = [1, 1], dilation, dilation, False, [0, 0], 1, [True, False, False]
            grad_input = torch.ops.aten.convolution_backward(grad, input, rounded, None, *shape)[0]
        return grad_input, weight_gradient(input, grad, ctx.dilation).to(weight.dtype), None


def weight_gradient(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """Return the weight gradient of a 3x3 convolution of stride 1, padded by its dilation.

    Args:
        input: (B, C, h, w).
        grad: of the output, (B, O, h, w).
        dilation: cells between two taps.

    Returns:
        (O, C, 3, 3), at least float32, laid out as the weights of a channels-last network: autograd takes it
        as their gradient without a copy.
    """
    _, channels, height, width = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)
    total = torch.empty(grad.shape[1], 3, 3, channels, dtype=dtype, device=input.device)
    for i, j in itertools.product(range(3), repeat=2):
        down, across = (i - 1) * dilation, (j - 1) * dilation
        if abs(down) >= height or abs(across) >= width:
            total[:, i, j] = 0  # this tap meets nothing but padding
            continue
        images = zip(input.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1), strict=True)
        for number, (image, grad_image) in enumerate(images):
            cells = _shift(image, down, across).flatten(0, 1)  # (n, C)
            grad_cells = _shift(grad_image, -down, -across).flatten(0, 1)  # (n, O)
            product = grad_cells.T @ cells
            if number == 0:
                total[:, i, j].copy_(product)
            else:
                total[:, i, j].add_(product)
    return total.permute(0, 3, 1, 2)


def _shift(map: Tensor, down: int, across: int) -> Tensor:
    """Return the cells (y + down, x + across) of (h, w, C), for every (y, x) that has one."""
    height, width = map.shape[:2]
    return map[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
