"""Groups of channels: which numbers divide, and what to say where one does not."""

from __future__ import annotations


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is not below the number."""
    return -(-number // multiple) * multiple


def check_divisible(setting: str, groups: int, channels: int) -> None:
    """Make sure that a number of groups divides the channels of a network of the published width.

    Raises:
        ValueError: it does not; the nearest numbers that do are named.
    """
    if groups > 0 and channels % groups == 0:
        return
    below = [n for n in range(1, min(groups, channels)) if channels % n == 0][-1:]
    above = [n for n in range(groups + 1, channels + 1) if channels % n == 0][:1]
    nearest = " or ".join(map(str, below + above))
    raise ValueError(f"{setting}={groups}: {channels} channels cannot be divided so; nearest: {nearest}")
