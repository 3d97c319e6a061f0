"""Depthwise convolutions whose gradients use oneDNN's fast kernels.

oneDNN has a fast weight gradient for kernels up to three columns wide without dilation, a fast gradient of
the input without dilation, and in bf16 without stride. All others take up to 30 times as long. Here

* a wide kernel's gradient is computed three columns at a time, each on a shifted view of the input;
* a dilated convolution is one without dilation on every d-th row and column, moved to the batch;
* the gradient of the input of a strided bf16 convolution is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_COLUMNS = 3  # of a kernel with a fast weight gradient
Pair = tuple[int, int]


def conv2d(input: Tensor, weight: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    """Return ``F.conv2d`` of the same arguments, with fast gradients where oneDNN's are slow."""
    bias, stride, padding, dilation, groups = _conv2d_arguments(*arguments, **keywords)
    is_cpu = isinstance(input, Tensor) and input.device.type == "cpu" and input.ndim == 4
    if not is_cpu or not weight.requires_grad or isinstance(padding, str):
        return F.conv2d(input, weight, *arguments, **keywords)
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    dtype = input.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    is_depthwise = groups == input.shape[1] == weight.shape[0] > 1
    if not is_depthwise or not _has_slow_gradient(weight, stride, padding, dilation, dtype):
        return F.conv2d(input, weight, *arguments, **keywords)
    given = input.to(dtype), weight, bias, stride, padding, dilation
    return _DepthwiseConvolution.apply(*given)  # pyright: ignore[reportReturnType]


def _conv2d_arguments(
    bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Any, Any, Any, Any, int]:
    return bias, stride, padding, dilation, groups


def _pair(value: int | tuple[int, ...]) -> Pair:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return values[0], values[-1]


def _has_slow_gradient(
    weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, dtype: torch.dtype
) -> bool:
    if dilation != (1, 1):  # moved to the batch only if every row and column of the result is needed
        is_square = dilation[0] == dilation[1] and padding[0] == padding[1]
        return is_square and stride == (1, 1) and padding[0] % dilation[0] == 0
    return weight.shape[3] > MAX_COLUMNS or (dtype == torch.bfloat16 and stride != (1, 1))


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.shape = stride, padding, dilation[0]
        if bias is not None:
            bias = bias.to(input.dtype)
        return F.conv2d(input, weight.to(input.dtype), bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        input, weight = ctx.saved_tensors
        (grad,), (stride, padding, dilation) = grad_outputs, ctx.shape
        size, grad_input, grad_weight, grad_bias = input.shape, None, None, None
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
        if dilation > 1:
            padding = padding[0] // dilation, padding[1] // dilation
            input, grad = _to_batch(input, dilation), _to_batch(grad, dilation)
            below, beside = (
                input.shape[i] + 2 * padding[i - 2] - weight.shape[i] + 1 - grad.shape[i] for i in (2, 3)
            )
            grad = F.pad(grad, (0, beside, 0, below))
        if ctx.needs_input_grad[0]:
            grad_input = input_gradient(input, grad, weight, stride, padding)
            if dilation > 1:
                grad_input = _from_batch(grad_input, dilation, size)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(input, grad, weight, stride, padding).to(weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None


def input_gradient(input: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient (B, C, h, w) of the input of a depthwise convolution."""
    dtype = input.dtype
    if dtype == torch.bfloat16 and stride != (1, 1):
        input, grad = torch.empty_like(input, dtype=torch.float32), grad.float()  # only its shape is read
    weight = weight.to(input.dtype)
    return _convolution_backward(input, grad, weight, stride, padding, of_input=True).to(dtype)


def weight_gradient(input: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient (C, 1, height, width) of the weight of a depthwise convolution."""
    weight = weight.to(input.dtype)
    width = weight.shape[3]
    if width <= MAX_COLUMNS:
        return _convolution_backward(input, grad, weight, stride, padding, of_input=False)
    parts = []
    for start in range(0, width, MAX_COLUMNS):
        columns = weight[..., start : start + MAX_COLUMNS]
        end = start + (grad.shape[3] - 1) * stride[1] + columns.shape[3]
        left, right = padding[1] - start, end - padding[1] - input.shape[3]  # padded, or cropped if negative
        if min(left, right) <= -input.shape[3]:
            parts.append(torch.zeros_like(columns))  # these columns meet nothing but padding
            continue
        part = F.pad(input, (left, right))
        parts.append(_convolution_backward(part, grad, columns, stride, (padding[0], 0), of_input=False))
    return torch.cat(parts, 3)


def _convolution_backward(
    input: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of_input: bool
) -> Tensor:
    shape = stride, padding, (1, 1), False, (0, 0), len(weight), (of_input, not of_input, False)
    result = torch.ops.aten.convolution_backward(grad, input, weight, None, *shape)
    return result[0] if of_input else result[1]


def _to_batch(map: Tensor, step: int) -> Tensor:
    """Split (B, C, H, W) into every step-th row and column: (step * step * B, C, h, w), channels last."""
    height, width = map.shape[2:]
    cells = F.pad(map, (0, -width % step, 0, -height % step)).permute(0, 2, 3, 1)
    cells = cells.unflatten(2, (-1, step)).unflatten(1, (-1, step))  # (B, h, step, w, step, C)
    return cells.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def _from_batch(map: Tensor, step: int, size: torch.Size) -> Tensor:
    """Undo ``_to_batch`` for a map of the given size (B, C, H, W)."""
    cells = map.permute(0, 2, 3, 1).unflatten(0, (step, step, -1))  # (step, step, B, h, w, C)
    cells = cells.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
    return cells[:, : size[2], : size[3]].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
