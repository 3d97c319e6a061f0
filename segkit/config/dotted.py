"""Nested settings addressed by dotted keys such as ``schedule.optimizer.name``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None if there is no such key."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in settings.items():
        flattened |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        )
    return flattened


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``lower`` with the values of ``upper``; another component replaces its section."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        section = merged.get(key)
        if not isinstance(section, dict) or not isinstance(value, Mapping):
            merged[key] = copy.deepcopy(value)
        elif value.get("name", section.get("name")) == section.get("name"):
            merged[key] = merge(section, value)
        else:
            merged[key] = copy.deepcopy(dict(value))
    return merged


def copy_keys(source: Mapping[str, Any], target: dict[str, Any], keys: Iterable[str]) -> None:
    """Copy dotted keys between settings; a key that the source lacks is removed from the target."""
    for path in keys:
        section, _, key = path.rpartition(".")
        values = value_of(source, section) if section else source
        if isinstance(values, Mapping) and key in values:
            _make_section(target, section)[key] = copy.deepcopy(values[key])
        else:
            inner = value_of(target, section) if section else target
            if isinstance(inner, dict):
                inner.pop(key, None)


def _make_section(settings: dict[str, Any], path: str) -> dict[str, Any]:
    for key in path.split(".") if path else ():
        if not isinstance(settings.get(key), dict):
            settings[key] = {}
        settings = settings[key]
    return settings
