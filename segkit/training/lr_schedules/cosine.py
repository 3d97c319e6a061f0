"""Cosine decay (arXiv 1608.03983, without restarts), after a linear warmup."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from segkit.config import Fraction, NonNegativeInt
from segkit.training.lr_schedules._warmup import with_warmup


def build(
    total: int,
    *,
    final: Fraction = 0.0,
    warmup_iterations: NonNegativeInt = 0,
    warmup: Literal["overlap", "encoding", "mmseg"] = "overlap",
) -> Callable[[int], float]:
    """Return the function from an iteration to its learning-rate factor, which ends at ``final``.

    See ``with_warmup``.
    """

    def decay(iteration: int, length: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * iteration / length)) / 2

    return with_warmup(decay, total, warmup_iterations=warmup_iterations, warmup=warmup)
