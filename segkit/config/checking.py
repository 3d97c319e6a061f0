"""Checking of composed settings against the schema: every fault is reported at once."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from segkit.config import hints, registry, schema, values
from segkit.config.dotted import flat
from segkit.config.hints import write_value
from segkit.config.schema import COMMANDS, LISTS, OPTIONAL


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
        required = COMMANDS[what].keys() - OPTIONAL[what]
        checked = _check_keys(settings, "", COMMANDS[what], required, faults)
    else:
        checked = _check_section(settings, what, dict, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def _check_section(section: Any, path: str, annotation: Any, faults: list[str]) -> Any:
    """Check one section and those inside it; messages are appended to ``faults``."""
    if not isinstance(section, Mapping):
        if type(section) in typing.get_args(annotation):  # null, or true and false in a list
            return section
        faults.append(hints.explain_section(path, section))
        return {}
    try:
        accepted, required = schema.read_section(path, section)
    except ValueError as error:
        faults.append(f"{path}.name={section.get('name')}: {error}")
        return {}
    if isinstance(annotation, dict):  # keys that the command adds
        accepted, required = accepted | annotation, required | annotation.keys()
    return _check_keys(section, path, accepted, required, faults)


def _check_keys(
    section: Mapping[str, Any],
    path: str,
    accepted: Mapping[str, Any],
    required: AbstractSet[str],
    faults: list[str],
) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in section.items():
        full, annotation = f"{path}.{key}".lstrip("."), accepted.get(key)
        if key not in accepted:
            for leaf, given in flat({key: None if value == {} else value}).items():
                hint = hints.explain_unknown(path, leaf, given, accepted)
                name = f"{path}.{leaf}".lstrip(".")
                faults.append(f"{name}={write_value(given)}: there is no such setting; {hint}")
        elif isinstance(annotation, dict) or annotation in (dict, dict | None):
            checked[key] = _check_section(value, full, annotation, faults)
        elif full in LISTS:
            checked[key] = _check_list(value, full, annotation, faults)
        else:
            try:
                checked[key] = values.convert(value, annotation)
            except ValueError as error:
                faults.append(f"{full}={write_value(value)}: {error}")
    missing = [key for key in accepted if key in required and key not in section]
    faults += [hints.explain_missing(f"{path}.{key}".lstrip(".")) for key in missing]
    return checked


def _check_list(components: Any, path: str, annotation: Any, faults: list[str]) -> dict[str, Any]:
    """Check components listed by name: each is a section, true for the defaults, or null to omit it."""
    if not isinstance(components, Mapping):
        faults.append(hints.explain_section(path, components))
        return {}
    _, kind = typing.get_args(annotation)
    checked = {}
    for name, component in components.items():
        try:
            registry.component_file(LISTS[path], name)
        except ValueError as error:
            faults.append(f"{path}.{name}={write_value(component)}: {error}")
        else:
            checked[name] = _check_section(component, f"{path}.{name}", kind, faults)
    return checked
