"""AdamW (arXiv 1711.05101): the quick start from scratch on small data."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from segkit.config import Fraction, Range
from segkit.training.optimizers._fused import is_fusible, with_equal_layouts


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    weight_decay: Annotated[float, Range(least=0, most=10)] = 0.01,
) -> torch.optim.Optimizer:
    """AdamW over parameter groups; weight decay is that of groups that do not say their own.

    Raises:
        ValueError: an average that never forgets.
    """
    if 1 in betas:
        raise ValueError(f"schedule.optimizer.betas={list(betas)}: both must be below 1")
    how: dict[str, Any] = {"betas": (betas[0], betas[1]), "weight_decay": weight_decay}
    return with_equal_layouts(torch.optim.AdamW(groups, lr=lr, fused=is_fusible(groups), **how))
