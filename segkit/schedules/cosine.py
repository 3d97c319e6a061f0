"""Cosine decay (arXiv 1608.03983, without restarts), after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

from segkit.settings import Fraction, NonNegativeInt


def build(
    total: int, *, final: Fraction = 0.0, warmup_iterations: NonNegativeInt = 0
) -> Callable[[int], float]:
    """The factor by which an iteration multiplies every group's learning rate.

    Args:
        total: iterations of the whole training.
        final: the factor at the end.
        warmup_iterations: over these the factor grows linearly to where the decay is by then.

    Raises:
        ValueError: the warm-up is not shorter than the training.
    """
    if warmup_iterations >= total:
        raise ValueError(
            f"schedule.policy.warmup_iterations={warmup_iterations} leaves nothing of {total} iterations"
        )

    def factor(iteration: int) -> float:
        decayed = final + (1 - final) * (1 + math.cos(math.pi * iteration / total)) / 2
        return decayed * min(1.0, (iteration + 1) / (warmup_iterations + 1))

    return factor
