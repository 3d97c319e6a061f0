"""Stochastic gradient descent with momentum, the optimizer of the published recipes."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from segkit.config import Fraction, Interval
from segkit.training.optimizers._fused import build_fused


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    momentum: Fraction = 0.9,
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 1e-4,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Build SGD; ``weight_decay`` applies to groups without their own.

    Raises:
        ValueError: Nesterov's variant without momentum.
    """
    if nesterov and not momentum:
        raise ValueError(
            "schedule.optimizer.momentum=0: must be above 0 with schedule.optimizer.nesterov=true"
        )
    settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return build_fused(torch.optim.SGD, groups, lr=lr, **settings)
