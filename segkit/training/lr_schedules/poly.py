"""Polynomial decay per iteration (arXiv 1606.00915): (1 - t / T) ** power, after a linear warmup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from segkit.config import Fraction, Interval, NonNegativeInt
from segkit.training.lr_schedules._warmup import with_warmup


def build(
    total: int,
    *,
    power: Annotated[float, Interval(gt=0, le=100)] = 0.9,
    final: Fraction = 0.0,
    warmup_iterations: NonNegativeInt = 0,
    warmup: Literal["overlap", "encoding", "mmseg"] = "overlap",
) -> Callable[[int], float]:
    """Return the function from an iteration to its learning-rate factor.

    The factor falls to ``final`` (mmsegmentation ends at 0.01: 1e-4 of 1e-2). See ``with_warmup``.
    """

    def decay(iteration: int, length: int) -> float:
        return (1 - final) * (1 - iteration / length) ** power + final

    return with_warmup(decay, total, warmup_iterations=warmup_iterations, warmup=warmup)
