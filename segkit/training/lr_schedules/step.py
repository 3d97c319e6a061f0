"""Step decay at given iterations, after a linear warmup."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

from segkit.config import Fraction, NonNegativeInt, PositiveInt
from segkit.runtime.text import format_count
from segkit.training.lr_schedules._warmup import with_warmup


def build(
    total: int,
    *,
    milestones: list[PositiveInt],
    gamma: Fraction = 0.1,
    warmup_iterations: NonNegativeInt = 0,
    warmup: Literal["overlap", "encoding", "mmseg"] = "overlap",
) -> Callable[[int], float]:
    """Return the function from an iteration to its learning-rate factor.

    Each of the ``milestones``, iterations counted from the start, multiplies it by ``gamma``. See
    ``with_warmup``.

    Raises:
        ValueError: a milestone is not before the end of the training.
    """
    if any(milestone >= total for milestone in milestones):
        raise ValueError(
            f"schedule.lr_schedule.milestones={milestones}: must be below the"
            f" {format_count(total, 'iteration')} of the training"
        )
    ordered = sorted(milestones)

    def decay(iteration: int, length: int) -> float:
        return gamma ** bisect_right(ordered, iteration + total - length)

    return with_warmup(decay, total, warmup_iterations=warmup_iterations, warmup=warmup)
