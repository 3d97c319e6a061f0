"""A rate that falls at given iterations, after a linear warm-up."""

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
    """The factor by which an iteration multiplies every group's learning rate.

    Args:
        total: iterations of the whole training.
        milestones: iterations, counted from the start of the training, at which the rate falls.
        gamma: what each of them multiplies it by.
        warmup_iterations: over these the factor rises linearly.
        warmup: whose; see ``segkit.training.lr_schedules._warmup``.

    Raises:
        ValueError: a milestone lies outside the training, or the warm-up is not shorter than it.
    """
    late = [milestone for milestone in milestones if milestone >= total]
    if late:
        raise ValueError(
            f"schedule.lr_schedule.milestones={milestones}: {late[0]} is not before the end,"
            f" {format_count(total, 'iteration')}"
        )
    ordered = sorted(milestones)

    def decay(iteration: int, length: int) -> float:
        return gamma ** bisect_right(ordered, iteration + total - length)

    return with_warmup(decay, total, warmup_iterations=warmup_iterations, warmup=warmup)
