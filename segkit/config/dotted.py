"""Nested settings addressed by dotted keys such as ``schedule.optimizer.name``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def value_of(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None if there is no such key; "" is the settings themselves."""
    value: Any = settings
    for part in key.split(".") if key else ():
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_value(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place; sections that do not exist are made."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(settings.get(section), dict):
            settings[section] = {}
        settings = settings[section]
    settings[name] = copy.deepcopy(value)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``lower`` with the values of ``upper``; another component replaces its section."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        section = merged.get(key)
        if isinstance(section, dict) and isinstance(value, Mapping):
            name = section.get("name")
            if value.get("name", name) == name:
                value = merge(section, value)
        merged[key] = copy.deepcopy(value)
    return merged


def merge_below(settings: Mapping[str, Any], layer: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return settings with those of a layer, except for dotted keys that a later source sets or removes."""
    merged = merge(settings, layer)
    for key in keys:
        section, _, name = key.rpartition(".")
        values, replaced = value_of(settings, section), value_of(merged, section)
        if isinstance(values, Mapping) and name in values:
            set_value(merged, key, values[name])
        elif isinstance(replaced, dict):
            replaced.pop(name, None)
    return merged
