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
    return with_warmup(lambda *_: 1.0, total, warmup_iterations=warmup_iterations, warmup=warmup)
