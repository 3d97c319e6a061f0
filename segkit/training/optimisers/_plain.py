"""Optimisers of PyTorch without its compiler, which their methods import: seconds before the first step."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def plain(kind: Kind) -> Kind:
    """The same class; its methods compute the same, with no word to ``torch._dynamo`` about graphs."""
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    uncompiled = {name: _innermost(getattr(kind, name)) for name in methods}
    step = torch.no_grad()(_innermost(kind.step))
    return type(kind.__name__, (kind,), uncompiled | {"step": step})  # pyright: ignore[reportReturnType]


def _innermost(method: Any) -> Any:
    """What decorators were put around."""
    while (inner := getattr(method, "__wrapped__", None)) is not None:
        method = inner
    return method
