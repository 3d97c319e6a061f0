"""Halves the learning rate at equal intervals."""

from __future__ import annotations

from collections.abc import Callable

from segkit.config import PositiveInt


def build(total: int, *, times: PositiveInt = 3) -> Callable[[int], float]:
    """Return the learning-rate factor of an iteration; it halves ``times`` times."""
    return lambda iteration: 0.5 ** (iteration * (times + 1) // total)
