"""The groups of files in ``conf/``: those of each command, and settings that a choice makes idle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segkit.config import declared, registry, schema
from segkit.config.dotted import value_of


def command_groups(command: str) -> list[str]:
    """The groups that a command chooses from, such as ``model/backbone``."""
    sections = [path for path in declared.SECTIONS if path.split(".")[0] in declared.COMMANDS[command]]
    extra = ["experiment"] if command == "train" else []
    return [group for path in (*sections, *extra) if schema.choices(group := path.replace(".", "/"))]


def list_choices(command: str) -> str:
    """The groups of a command with their files, and what settings list by name, one a line, for its help."""
    lines = [f"{group}: {', '.join(schema.choices(group))}" for group in command_groups(command)]
    for path, package in declared.LISTS.items():
        names = [name for name in registry.available(package) if name not in ("mixed", "confusion")]
        if names and path.split(".")[0] in declared.COMMANDS[command]:
            end = ".weight=1" if package == "losses" else "=true"
            lines.append(f"{path}.NAME{end}: {', '.join(names)}")
    return "\n".join(lines)


def drop_inapplicable_keys(
    settings: dict[str, Any], chosen: Mapping[str, str], typed: Iterable[str]
) -> list[str]:
    """Drop keys that a recipe or model sets for a component that was replaced, and return a line for each.

    Args:
        settings: composed; changed in place.
        chosen: groups that the command line or the experiment chooses, with their files.
        typed: dotted keys of the command line, which stay for the check to see.
    """
    lines: list[str] = []
    for path, where in declared.SECTIONS.items():
        group = path.replace(".", "/")
        is_chosen = any(group == choice or group.startswith(f"{choice}/") for choice in chosen)
        if ":" in where or not is_chosen:  # ":": the section of a function, not of a component
            continue
        section = value_of(settings, path)
        for key in (
            schema.unknown_key_message(path, section)
            if isinstance(section, dict) and "name" in section
            else ()
        ):
            if any(f"{word}.".startswith(f"{path}.{key}.") for word in typed):
                continue
            value = section.pop(key)
            if value is not None:
                lines.append(f"{path}.{key}={value} is left out: {section['name']} has no such setting")
    return lines
