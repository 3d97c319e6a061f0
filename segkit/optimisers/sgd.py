"""Stochastic gradient descent with momentum, the optimiser of every published recipe here."""

from __future__ import annotations

from typing import Any

import torch

from segkit.settings import Fraction, NonNegativeFloat


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    momentum: Fraction = 0.9,
    weight_decay: NonNegativeFloat = 1e-4,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """SGD over parameter groups; weight decay is that of groups that do not say their own."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
