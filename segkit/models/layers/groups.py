"""Divisibility of channels by groups."""

from __future__ import annotations


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least the number."""
    return -(-number // multiple) * multiple


def check_divisible(setting: str, groups: int, channels: int) -> None:
    """Check that a number of groups divides a number of channels.

    Raises:
        ValueError: it does not.
    """
    if channels % groups:
        raise ValueError(f"{setting}={groups}: must divide {channels} channels")
