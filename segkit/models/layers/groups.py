"""Divisibility of channels by groups."""

from __future__ import annotations


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least the number."""
    return -(-number // multiple) * multiple


def check_divisible(setting: str, groups: int, channels: int) -> None:
    """Check that a number of groups divides a number of channels.

    Raises:
        ValueError: it does not; the message names the nearest numbers that do.
    """
    if groups > 0 and channels % groups == 0:
        return
    below = [n for n in range(1, min(groups, channels)) if channels % n == 0][-1:]
    above = [n for n in range(groups + 1, channels + 1) if channels % n == 0][:1]
    nearest = " or ".join(map(str, below + above))
    raise ValueError(f"{setting}={groups}: must divide {channels} channels; nearest: {nearest}")
