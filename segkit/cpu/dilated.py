"""Dilated 3x3 convolutions whose weight gradient skips the padding.

At rate 36, a map of 60 cells shows the outer taps of a 3x3 to 40 % of its rows and columns; elsewhere they
meet padding. oneDNN skips that padding in the forward pass and in the gradient of the input, but not in the
gradient of the weight, which took up to 12 times as long as the forward pass. Here it is one matrix product
for each tap and image, over the cells where the tap meets the map:

    dW[:, :, i, j] = sum over n, y, x of g[n, :, y, x] * input[n, :, y + d_i, x + d_j]^T
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MOST = 0.7  # share of the products that are inside the map, above which oneDNN's own gradient is as fast


class DilatedConv2d(nn.Conv2d):
    """``nn.Conv2d`` for which ``applies`` is true; its results differ in rounding only."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        reach = self.dilation[0]
        own = input.device.type == "cpu" and self.training and self.weight.requires_grad
        if not own or torch.compiler.is_compiling() or share_inside(input.shape[2:], reach) > MOST:
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        return _Dilated.apply(input, self.weight, reach)  # pyright: ignore[reportReturnType]


def applies(conv: nn.Module) -> bool:
    """Return whether this is a dilated 3x3 convolution of one group without bias that keeps the size."""
    if type(conv) is not nn.Conv2d or conv.bias is not None or conv.padding_mode != "zeros":
        return False
    reach = conv.dilation[0]
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    return reach > 1 and shape == ((3, 3), (1, 1), (reach, reach), (reach, reach), 1)


def share_inside(size: torch.Size, reach: int) -> float:
    """Return the share of a 3x3's products that meet no padding, the taps being ``reach`` cells apart."""
    return math.prod((1 + 2 * max(0, side - reach) / side) / 3 for side in size)


class _Dilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, reach: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.reach = reach
        return F.conv2d(input, weight.to(input.dtype), padding=reach, dilation=reach)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor, None]:
        input, weight = ctx.saved_tensors
        (gradient,) = grad_outputs
        of_input = None
        if ctx.needs_input_grad[0]:
            sides = [1, 1], [ctx.reach] * 2, [ctx.reach] * 2, False, [0, 0], 1, [True, False, False]
            small = weight.to(input.dtype)
            of_input = torch.ops.aten.convolution_backward(gradient, input, small, None, *sides)[0]
        return of_input, weight_gradient(input, gradient, ctx.reach).to(weight.dtype), None


def weight_gradient(input: Tensor, gradient: Tensor, reach: int) -> Tensor:
    """Return the weight gradient of a 3x3 convolution of stride 1, padded and dilated by ``reach``.

    Args:
        input: (B, C, h, w).
        gradient: of the output, (B, O, h, w).
        reach: cells between two taps.

    Returns:
        (O, C, 3, 3), at least float32, laid out as the weights of a channels-last network: autograd takes it
        as their gradient and makes no copy.
    """
    _, channels, height, width = input.shape
    exact = torch.promote_types(input.dtype, torch.float32)
    total = torch.empty(gradient.shape[1], 3, 3, channels, dtype=exact, device=input.device)
    for i, j in ((i, j) for i in range(3) for j in range(3)):
        down, across = (i - 1) * reach, (j - 1) * reach
        if abs(down) >= height or abs(across) >= width:
            total[:, i, j] = 0  # this tap meets nothing but padding
            continue
        images = zip(input.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1), strict=True)
        for number, (image, of_image) in enumerate(images):
            seen = _shifted(image, down, across).flatten(0, 1)  # (cells, C)
            of_tap = _shifted(of_image, -down, -across).flatten(0, 1).T @ seen
            total[:, i, j].add_(of_tap) if number else total[:, i, j].copy_(of_tap)
    return total.permute(0, 3, 1, 2)


def _shifted(map: Tensor, down: int, across: int) -> Tensor:
    """Return the cells (y + down, x + across) of (h, w, C), for every (y, x) that has one."""
    height, width = map.shape[:2]
    return map[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
