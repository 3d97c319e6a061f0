"""Numbers, durations and errors in messages."""

from __future__ import annotations


def format_count(number: float, noun: str) -> str:
    """Return a number with its noun in the right form: ``1 epoch``, ``2,000 epochs``, ``2 classes``."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    if number == 1:
        return f"{digits} {noun}"
    ending = "es" if noun.endswith("s") else "s"
    return f"{digits} {noun}{ending}"


def format_clock(seconds: float) -> str:
    """Return seconds as ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
