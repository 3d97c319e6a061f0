"""Constant learning rate, after a linear warmup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from segkit.config import NonNegativeInt
from segkit.training.lr_schedules._warmup import with_warmup


def build(
    total: int,
    *,
    warmup_iterations: NonNegativeInt = 0,
    warmup: Literal["overlap", "encoding", "mmseg"] = "overlap",
) -> Callable[[int], float]:
    """Return the function from an iteration to its learning-rate factor; see ``with_warmup``."""

    def decay(iteration: int, length: int) -> float:
        del iteration, length
        return 1.0

    return with_warmup(decay, total, warmup_iterations=warmup_iterations, warmup=warmup)
