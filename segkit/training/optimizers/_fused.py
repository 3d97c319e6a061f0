"""PyTorch's fused optimizer kernels, which take half the time on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def build_fused(
    kind: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], **settings: Any
) -> torch.optim.Optimizer:
    """Build an optimizer of PyTorch, fused if all parameters are on a CPU.

    Fused kernels read memory in order. They would mix up elements without an error after resuming with
    another ``runtime.channels_last``, so gradients and momenta get the layout of their weights before each
    step.
    """
    fused = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    optimizer = kind(groups, fused=fused, **settings)
    if fused:
        optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = _lay_out_as(parameter, parameter.grad)
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = _lay_out_as(parameter, value)


def _lay_out_as(parameter: Tensor, other: Tensor) -> Tensor:
    """Return a tensor in the memory layout of a parameter; strides of dimensions of size 1 do not matter."""
    strides = zip(parameter.shape, parameter.stride(), other.stride(), strict=True)
    if all(own == others or size == 1 for size, own, others in strides):
        return other
    return torch.empty_like(parameter, dtype=other.dtype).copy_(other)
