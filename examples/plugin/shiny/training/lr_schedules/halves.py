"""The learning rate halves every so often."""

from __future__ import annotations

from collections.abc import Callable

from segkit.config import PositiveInt


def build(total: int, *, times: PositiveInt = 3) -> Callable[[int], float]:
    """The factor of an iteration; over the training it halves so many times."""
    return lambda iteration: 0.5 ** (iteration * (times + 1) // total)
