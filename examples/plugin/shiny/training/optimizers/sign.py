"""Sign descent (Bernstein et al. 2018, arXiv 1802.04434): every weight moves by the learning rate."""

from __future__ import annotations

from typing import Any

import torch


class Sign(torch.optim.Optimizer):
    """Sign descent without momentum."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


def build(groups: list[dict[str, Any]], lr: float) -> Sign:
    """Return the optimizer."""
    return Sign(groups, lr)
