"""Checking of composed settings against the schema: every fault is reported at once."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from segkit.config import hints, schema, values
from segkit.config.dotted import flat
from segkit.config.schema import COMMANDS, LISTS, OPTIONAL, Component, Keys


def check(what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with every value converted to its declared type.

    Args:
        what: a command (``train``), or a section such as ``model``.
        settings: as composed.

    Raises:
        ValueError: unknown or missing keys, and values of a wrong type or out of range; one line for each.
    """
    faults: list[str] = []
    if what in COMMANDS:
        keys = Keys(COMMANDS[what], COMMANDS[what].keys() - OPTIONAL[what])
        checked = _check_keys(settings, "", keys, faults)
    else:
        checked = _check_section(settings, what, dict, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def _check_section(section: Any, path: str, annotation: Any, faults: list[str]) -> Any:
    """Check one section and those inside it; messages are appended to ``faults``."""
    if not isinstance(section, Mapping):
        if isinstance(section, bool | None) and type(section) in typing.get_args(annotation):
            return section  # true or null in place of a component
        faults.append(hints.explain_section(path, section))
        return {}
    try:
        keys = schema.read_section(path, section)
    except ValueError as error:
        faults.append(f"{path}.name={section.get('name')}: {error}")
        return {}
    if isinstance(annotation, dict):  # keys that the command adds
        keys = Keys(keys.accepted | annotation, keys.required | annotation.keys())
    return _check_keys(section, f"{path}.", keys, faults)


def _check_keys(section: Mapping[str, Any], prefix: str, keys: Keys, faults: list[str]) -> dict[str, Any]:
    """Check the keys and values of a section whose dotted keys start with ``prefix``."""
    checked: dict[str, Any] = {}
    for key, value in section.items():
        full, annotation = f"{prefix}{key}", keys.accepted.get(key)
        if key not in keys.accepted:
            for leaf, given in flat({key: None if value == {} else value}).items():  # all in a section
                hint = hints.explain_unknown(prefix, leaf, given, keys.accepted)
                faults.append(f"{prefix}{leaf}={hints.write_value(given)}: there is no such setting; {hint}")
        elif full in LISTS or isinstance(annotation, dict) or annotation in (dict, dict | None, Component):
            checked[key] = _check_section(value, full, annotation, faults)
        else:
            try:
                checked[key] = values.convert(value, annotation)
            except ValueError as error:
                faults.append(f"{full}={hints.write_value(value)}: {error}")
    missing = [key for key in keys.accepted if key in keys.required and key not in section]
    faults += [hints.explain_missing(f"{prefix}{key}") for key in missing]
    return checked
