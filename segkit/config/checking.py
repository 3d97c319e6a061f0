"""Checking of composed settings against the schema: every fault is reported at once."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any

from segkit.config import hints, registry, schema, values
from segkit.config.dotted import flat, value_of
from segkit.config.schema import COMMANDS, LISTS, OPTIONAL, Keys


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
        checked = _check_section(
            settings, "", COMMANDS[what], faults, optional=_optional_keys(what, settings)
        )
    else:
        checked = _check_section(settings, what, {}, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def find_missing(command: str, settings: Mapping[str, Any]) -> list[str]:
    """Return a message for each required top-level key that is missing."""
    keys = schema.read_section("", {}, COMMANDS[command])
    missing = [
        key for key in keys.required if key not in settings and key not in _optional_keys(command, settings)
    ]
    return [hints.explain_missing(key, keys.accepted[key], COMMANDS[command]) for key in missing]


def _optional_keys(command: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    if settings.get("predictions") is not None:  # masks are scored without a network
        return (*OPTIONAL[command], "model")
    return OPTIONAL[command]


def _check_section(
    section: Any, path: str, declared: Mapping[str, Any], faults: list[str], *, optional: Iterable[str] = ()
) -> dict[str, Any]:
    """Check one section and those inside it; messages are appended to ``faults``."""
    if not isinstance(section, Mapping):
        faults.append(hints.explain_section(path, section))
        return {}
    try:
        keys = schema.read_section(path, section, declared)
    except ValueError as error:
        faults.append(f"{path}.name={section.get('name')}: {error}")
        return {}
    checked = _check_keys(section, path, keys, declared, faults)
    missing = [key for key in keys.required if key not in section and key not in optional]
    names = [(f"{path}.{key}".lstrip("."), keys.accepted[key]) for key in missing]
    faults += [hints.explain_missing(name, annotation, declared) for name, annotation in names]
    return checked


def _check_keys(
    section: Mapping[str, Any], path: str, keys: Keys, declared: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in section.items():
        full, annotation = f"{path}.{key}".lstrip("."), keys.accepted.get(key)
        if key not in keys.accepted:
            for leaf, given in flat({key: None if value == {} else value}).items():
                hint = hints.explain_unknown(path, leaf, given, keys.accepted)
                name = f"{path}.{leaf}".lstrip(".")
                faults.append(f"{name}={hints.write_value(given)}: there is no such setting; {hint}")
        elif annotation is dict or (annotation == dict | None and value is not None):
            inner = {k.removeprefix(f"{key}."): v for k, v in declared.items() if k.startswith(f"{key}.")}
            checked[key] = _check_section(value, full, inner, faults)
        elif typing.get_origin(annotation) is dict:
            checked[key] = _check_list(value, full, faults)
        else:
            try:
                checked[key] = values.convert(value, annotation)
            except ValueError as error:
                if (full, value) == ("device", "gpu"):
                    hint = "; did you mean device=cuda?"
                else:
                    hint = ""
                faults.append(f"{full}={hints.write_value(value)}: {error}{hint}")
    return checked


def _check_list(components: Any, path: str, faults: list[str]) -> dict[str, Any]:
    """Check components listed by name: each is a section, true for the defaults, or null to omit it."""
    checked, package = {}, LISTS[path]
    if not isinstance(components, Mapping):
        faults.append(hints.explain_section(path, components))
        return {}
    for name, component in components.items():
        full = f"{path}.{name}"
        wrong = f"{full}={hints.write_value(component)}"
        try:
            accepted = schema.read_keywords(f"{registry.component_file(package, name)}:build").accepted
        except ValueError as error:
            faults.append(f"{wrong}: {error}")
            continue
        if (
            package == "losses"
        ):  # in a sum each loss has a weight, and the auxiliary head's belongs to the sum
            accepted = {"weight": values.NonNegativeFloat} | accepted
            accepted.pop("aux_weight", None)
        if isinstance(component, Mapping):
            checked[name] = _check_keys(component, full, Keys(accepted), {}, faults)
        elif isinstance(component, bool) and package != "losses":
            checked[name] = component
        elif component is not None:
            faults.append(f"{wrong}: this is a section; set {full}.{next(iter(accepted), 'KEY')}={component}")
    return checked


def expand_paths(command: str, settings: dict[str, Any]) -> None:
    """Replace a leading ``~`` in every setting that names a file or folder, in place.

    Raises:
        ValueError: there is no such user.
    """
    for path, value in flat(settings).items():
        texts = value if isinstance(value, list) else [value]
        if not any(isinstance(text, str) and text.startswith("~") for text in texts):
            continue
        if not any(values.takes_path(kind) for kind in schema.find_annotations(command, path)):
            continue
        try:
            expanded = [values.expand_home(text) if isinstance(text, str) else text for text in texts]
        except ValueError as error:
            raise ValueError(f"{path}={error}") from error
        section, _, key = path.rpartition(".")
        inner = value_of(settings, section) if section else settings
        inner[key] = expanded if isinstance(value, list) else expanded[0]
