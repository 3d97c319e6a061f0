"""AdamW (arXiv 1711.05101), for training from scratch on small data."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from segkit.config import FractionBelowOne, Interval
from segkit.training.optimizers._fused import build_fused


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999),
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01,
) -> torch.optim.Optimizer:
    """Build AdamW; ``weight_decay`` applies to groups without their own."""
    return build_fused(torch.optim.AdamW, groups, lr=lr, betas=betas, weight_decay=weight_decay)
