"""Depthwise convolutions whose gradients use oneDNN's fast kernels.

oneDNN has a fast weight gradient for kernels up to three columns wide without dilation, a fast gradient of
the input without dilation, and in bf16 without stride. All others take up to 30 times as long. Here

* a wide kernel's gradient is computed three columns at a time, each on a shifted view of the input;
* a dilated convolution is one without dilation on every d-th row and column, moved to the batch;
* the gradient of the input of a strided bf16 convolution is computed in float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.cpu.convolution import Convolution, Pair, compute_gradient

MAX_COLUMNS = 3  # of a kernel with a fast weight gradient


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``F.conv2d`` of the same arguments, with fast gradients where oneDNN's are slow."""
    is_depthwise = input.ndim == 4 and groups == input.shape[1] == weight.shape[0] > 1
    if not is_depthwise or input.device.type != "cpu" or not weight.requires_grad or isinstance(padding, str):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    if torch.is_autocast_enabled("cpu"):
        input = input.to(torch.get_autocast_dtype("cpu"))
    if dilation != (1, 1):  # moved to the batch only if every row and column of the result is needed
        is_square = dilation[0] == dilation[1] and padding[0] == padding[1]
        is_slow = is_square and stride == (1, 1) and padding[0] % dilation[0] == 0
    else:
        is_slow = weight.shape[3] > MAX_COLUMNS or (input.dtype == torch.bfloat16 and stride != (1, 1))
    shape: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    forward = functools.partial(F.conv2d, **shape, groups=groups)
    if not is_slow:
        return forward(input, weight, bias)
    backward = functools.partial(compute_gradients, **shape)
    return Convolution.apply(input, weight, bias, forward, backward)  # pyright: ignore[reportReturnType]


def _pair(value: int | tuple[int, ...]) -> Pair:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def compute_gradients(
    input: Tensor,
    grad: Tensor,
    weight: Tensor,
    needed: tuple[bool, bool],
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of input and weight of a depthwise convolution, None if not needed."""
    size, step, grad_input, grad_weight = input.shape, dilation[0], None, None
    if step > 1:
        padding = padding[0] // step, padding[1] // step
        input, grad = _to_batch(input, step), _to_batch(grad, step)
        below, beside = (
            input.shape[i] + 2 * padding[i - 2] - weight.shape[i] + 1 - grad.shape[i] for i in (2, 3)
        )
        grad = F.pad(grad, (0, beside, 0, below))
    if needed[0]:
        grad_input = input_gradient(input, grad, weight, stride, padding)
        if step > 1:
            grad_input = _from_batch(grad_input, step, size)
    if needed[1]:
        grad_weight = weight_gradient(input, grad, weight, stride, padding)
    return grad_input, grad_weight


def input_gradient(input: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient (B, C, h, w) of the input of a depthwise convolution."""
    dtype = input.dtype
    if dtype == torch.bfloat16 and stride != (1, 1):
        input, grad = torch.empty_like(input, dtype=torch.float32), grad.float()
    shape: Any = {"stride": stride, "padding": padding, "groups": len(weight)}
    return compute_gradient(input, grad, weight.to(input.dtype), of_input=True, **shape).to(dtype)


def weight_gradient(input: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient (C, 1, height, width) of the weight of a depthwise convolution."""
    weight, shape = weight.to(input.dtype), {"stride": stride, "groups": len(weight), "of_input": False}
    if weight.shape[3] <= MAX_COLUMNS:
        return compute_gradient(input, grad, weight, padding=padding, **shape)
    parts, start = [], 0
    for columns in weight.split(MAX_COLUMNS, 3):
        end = start + (grad.shape[3] - 1) * stride[1] + columns.shape[3]
        left, right = padding[1] - start, end - padding[1] - input.shape[3]  # padded, or cropped if negative
        start += MAX_COLUMNS
        if min(left, right) <= -input.shape[3]:
            parts.append(torch.zeros_like(columns))  # these columns meet nothing but padding
            continue
        part = F.pad(input, (left, right))
        parts.append(compute_gradient(part, grad, columns, padding=(padding[0], 0), **shape))
    return torch.cat(parts, 3)


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
