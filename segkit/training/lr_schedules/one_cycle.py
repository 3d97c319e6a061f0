"""One cycle (arXiv 1708.07120): cosine increase to the learning rate, cosine decay to almost zero."""

from __future__ import annotations

import math
from collections.abc import Callable

from segkit.config import Fraction


def build(
    total: int,
    *,
    rise: Fraction = 0.3,
    initial: Fraction = 0.04,
    final: Fraction = 4e-6,
) -> Callable[[int], float]:
    """Return the one-cycle schedule: a function from an iteration to its learning-rate factor.

    The factor rises from ``initial`` to 1 in the share ``rise`` of the iterations, then falls to ``final``.
    """
    top = rise * total - 1  # as in torch.optim.lr_scheduler.OneCycleLR

    def factor(iteration: int) -> float:
        if iteration <= top:
            return _interpolate(initial, 1.0, iteration / top if top else 1.0)
        return _interpolate(1.0, final, (iteration - top) / (total - 1 - top))

    return factor


def _interpolate(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
