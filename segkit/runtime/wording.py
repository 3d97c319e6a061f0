"""Numbers in messages."""

from __future__ import annotations


def write_count(number: float, noun: str) -> str:
    """Write a number with its noun in the right form: ``1 epoch``, ``2,000 epochs``."""
    written = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{written} {noun}" if number == 1 else f"{written} {noun}s"
