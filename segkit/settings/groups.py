"""The groups of files in ``conf/``: those of each command, and settings that a choice makes idle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from segkit import components
from segkit.settings import declared, schema
from segkit.settings.dotted import value_of

LOG = logging.getLogger("segkit")


def of_command(command: str) -> list[str]:
    """The groups that a command chooses from, such as ``model/backbone``."""
    sections = [path for path in declared.SECTIONS if path.split(".")[0] in declared.COMMANDS[command]]
    extra = ["experiment"] if command == "train" else []
    return [group for path in (*sections, *extra) if schema.choices(group := path.replace(".", "/"))]


def listing(command: str) -> str:
    """The groups of a command with their files, and what settings list by name, one a line, for its help."""
    lines = [f"{group}: {', '.join(schema.choices(group))}" for group in of_command(command)]
    for path, package in declared.LISTS.items():
        names = [name for name in components.available(package) if name not in ("mixed", "confusion")]
        if names and path.split(".")[0] in declared.COMMANDS[command]:
            end = ".weight=1" if package == "losses" else "=true"
            lines.append(f"{path}.NAME{end}: {', '.join(names)}")
    return "\n".join(lines)


def without_idle(settings: dict[str, Any], chosen: Mapping[str, str], typed: Iterable[str]) -> None:
    """Take out, and tell, what recipes and experiments say of another component than the one chosen.

    Args:
        settings: composed; changed in place.
        chosen: groups that the command line chooses, with their files.
        typed: dotted keys that the command line says, which stay for the check to see.
    """
    for path, where in declared.SECTIONS.items():
        group = path.replace(".", "/")
        beneath = any(group == choice or group.startswith(f"{choice}/") for choice in chosen)
        if ":" in where or not beneath:  # ":": the section of a function, not of a component
            continue
        section = value_of(settings, path)
        for key in schema.unknown(path, section) if isinstance(section, dict) and "name" in section else ():
            if not any(f"{word}.".startswith(f"{path}.{key}.") for word in typed):
                value = section.pop(key)
                if value is None:
                    continue
                LOG.warning("%s.%s=%s is left out: %s has no such setting", path, key, value, section["name"])
