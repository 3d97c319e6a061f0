"""Dotted keys of nested settings: ``schedule.optimizer.name``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None where it is not there."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level with dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
        flattened |= inner
    return flattened
