"""One cycle (arXiv 1708.07120): a cosine up to the rate, and a cosine down to almost nothing.

The rise is a warm-up of its own, so the linear one of the other policies is not offered.
"""

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
    """The factor by which an iteration multiplies every group's learning rate.

    Args:
        total: iterations of the whole training.
        rise: share of them in which the factor rises to 1.
        initial: the factor at the first iteration.
        final: the factor at the last one.
    """
    top = rise * total - 1  # torch.optim.lr_scheduler.OneCycleLR counts so

    def factor(iteration: int) -> float:
        if iteration <= top:
            return _between(initial, 1.0, iteration / top if top else 1.0)
        return _between(
            1.0, final, min(1.0, (iteration - top) / (total - 1 - top)) if top < total - 1 else 1.0
        )

    return factor


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
