"""PyTorch's fused optimizer kernels, which take half the time on a CPU."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


def is_fusible(groups: list[dict[str, Any]]) -> bool:
    """Return whether all parameters are on a CPU."""
    return all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])


def with_equal_layouts(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer convert gradients and momenta to the memory layout of their weights before each step.

    Fused kernels read memory in order. They would mix up elements without an error after resuming with
    another ``runtime.channels_last``.
    """
    optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for parameter in (p for group in optimizer.param_groups if group["fused"] for p in group["params"]):
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
