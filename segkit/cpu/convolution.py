"""An autograd function for convolutions with gradients of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


class Convolution(torch.autograd.Function):
    """``forward(input, weight, bias)`` in the type of the input, with the gradients of ``backward``.

    ``backward`` maps input, gradient of the output, weight, and which of input and weight need a gradient, to
    both gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        forward: Callable[..., Tensor],
        backward: Callable[..., tuple[Tensor | None, Tensor | None]],
    ) -> Tensor:
        """Run ``forward``."""
        ctx.save_for_backward(input, weight)
        ctx.gradients = backward
        if bias is not None:
            bias = bias.to(input.dtype)
        return forward(input, weight.to(input.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run ``backward``."""
        input, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_input, grad_weight = ctx.gradients(input, grad, weight, ctx.needs_input_grad[:2])
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None


def compute_gradient(
    input: Tensor,
    grad: Tensor,
    weight: Tensor,
    *,
    of_input: bool,
    padding: Pair,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Return PyTorch's gradient of the input (B, C, h, w) or of the weight of a convolution.

    ``grad`` is that of the output. Of the tensor whose gradient is returned, only shape and type matter.
    """
    settings = stride, padding, dilation, False, (0, 0), groups, (of_input, not of_input, False)
    gradients = torch.ops.aten.convolution_backward(grad, input, weight, None, *settings)
    return gradients[0] if of_input else gradients[1]
