"""The settings ``data.bands``, ``range``, ``display`` and ``fill`` as one thing, without contradictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.types import Bands

KEYS = ("bands", "range", "display", "fill")


def of_settings(data: Mapping[str, Any]) -> Bands:
    """What settings of data say of bands; data sets that say nothing of them hold photographs.

    Raises:
        ValueError: the settings contradict one another.
    """
    chosen, limits, display, fill = (_as_tuples(data.get(key)) for key in KEYS)
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"data.bands={_text(chosen)}: name at least one band, and each once")
    pairs = () if limits is None or isinstance(limits, str) else limits
    pairs = (pairs,) if pairs and not isinstance(pairs[0], tuple) else pairs
    for low, high in pairs:
        if low >= high:
            raise ValueError(
                f"data.range={_text(limits)}: the value of black is less than that of white, such as [0,4095]"
            )
    count = 3 if chosen is None else len(chosen)
    if len(pairs) not in (0, 1, count):
        raise ValueError(
            f"data.range={_text(limits)}: {len(pairs)} ranges for {count} bands; give one, or one each"
        )
    numbers = chosen or (1, 2, 3)
    if display is not None and (len(display) not in (1, 3) or not set(display) <= set(numbers)):
        raise ValueError(
            f"data.display={_text(display)}: one band (as grey) or three (red, green, blue) of those in "
            f"data.bands={_text(numbers)} are meant"
        )
    return Bands(chosen, limits, display, fill)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    """As it is typed."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, tuple) else f"{value}"
