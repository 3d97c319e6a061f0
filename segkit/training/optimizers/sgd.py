"""Stochastic gradient descent with momentum, the optimizer of every published recipe here."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from segkit.config import Fraction, Range
from segkit.training.optimizers._fused import is_fusible, with_equal_layouts


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    momentum: Fraction = 0.9,
    weight_decay: Annotated[float, Range(least=0, most=10)] = 1e-4,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """SGD over parameter groups; weight decay is that of groups that do not say their own.

    Raises:
        ValueError: Nesterov's variant without a momentum.
    """
    if nesterov and not momentum:
        raise ValueError(
            "schedule.optimizer.nesterov=true with schedule.optimizer.momentum=0: it looks ahead along the"
            " momentum, so give one, 0.9 say"
        )
    how: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return with_equal_layouts(torch.optim.SGD(groups, lr=lr, fused=is_fusible(groups), **how))
