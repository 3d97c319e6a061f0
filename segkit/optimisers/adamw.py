"""AdamW (arXiv 1711.05101): the quick start from scratch on small data."""

from __future__ import annotations

from typing import Any

import torch

from segkit.settings import Fraction, NonNegativeFloat


def build(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    weight_decay: NonNegativeFloat = 0.01,
) -> torch.optim.Optimizer:
    """AdamW over parameter groups; weight decay is that of groups that do not say their own."""
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
