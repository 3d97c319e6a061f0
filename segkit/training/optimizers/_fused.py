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
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for parameter in group["params"]:
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
    return any(own != others for size, own, others in strides if size > 1)
