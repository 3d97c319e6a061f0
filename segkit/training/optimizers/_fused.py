"""PyTorch's fused kernels, which move each weight in one pass over memory: half the time on a CPU."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


def is_fusible(groups: list[dict[str, Any]]) -> bool:
    """Return whether all parameters are on a CPU."""
    return all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])


def with_equal_layouts(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer give gradients and momenta the memory layout of their weights before each step.

    The fused kernels go through memory and would mix up elements without an error, as after resuming with
    another ``runtime.channels_last``.
    """
    optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            if parameter.grad is not None and _differ(parameter, parameter.grad):
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and _differ(parameter, value):
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _differ(parameter: Tensor, other: Tensor) -> bool:
    if parameter.stride() == other.stride():
        return False
    strides = zip(parameter.shape, parameter.stride(), other.stride(), strict=True)
    return any(own != its for size, own, its in strides if size > 1)
