"""Optimisers of PyTorch without its compiler, which their methods import: seconds before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def plain(kind: Kind) -> Kind:
    """The same class; its methods compute the same, with no word to ``torch._dynamo`` about graphs."""
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    uncompiled = {name: _innermost(getattr(kind, name)) for name in methods}
    step = torch.no_grad()(_innermost(kind.step))

    def checked(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group.get("fused"):  # its kernel goes through memory, and would mix up numbers without a word
                _lay_out_gradients(group["params"])
        return step(self, closure)

    return type(kind.__name__, (kind,), uncompiled | {"step": checked})  # pyright: ignore[reportReturnType]


def one_pass(groups: list[dict[str, Any]]) -> bool:
    """Whether each weight is to be moved in one pass over memory: on a CPU, where that is half the time."""
    return all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])


def _lay_out_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every gradient the layout of its weight, as autograd does by itself."""
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or gradient.stride() == parameter.stride():
            continue
        strides = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
        if any(own != other for size, own, other in strides if size > 1):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _innermost(method: Any) -> Any:
    """What decorators were put around."""
    while (inner := getattr(method, "__wrapped__", None)) is not None:
        method = inner
    return method
