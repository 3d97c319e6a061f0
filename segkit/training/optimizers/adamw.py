"""AdamW (arXiv 1711.05101), for training from scratch on small data."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from segkit.config import Fraction, Interval
from segkit.training.optimizers._fused import is_fusible, with_equal_layouts


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01,
) -> torch.optim.Optimizer:
    """Build AdamW; ``weight_decay`` applies to groups without their own.

    Raises:
        ValueError: a beta is 1.
    """
    if 1 in betas:
        raise ValueError(f"schedule.optimizer.betas={list(betas)}: both must be below 1")
    optimizer = torch.optim.AdamW(
        groups, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=is_fusible(groups)
    )
    return with_equal_layouts(optimizer)
