"""The settings of a run that goes on: those it had, and over them what was typed this time."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from segkit.config.dotted import flat

OF_THIS_START = (
    "plugins",
    "resume",
    "run_name",
    "run_dir",
    "device",
    "summary",
    "profile",
    "lr_finder",
)  # never the run's own


def merge_on_resume(
    before: Mapping[str, Any], now: Mapping[str, Any], typed: Iterable[str]
) -> dict[str, Any]:
    """Settings of the run, with those that were typed, and with keys that did not exist when it began.

    Args:
        before: in the checkpoint.
        now: as composed for this start.
        typed: dotted keys of ``now`` that win; a key that is not there was taken out.
    """
    merged = _filled(copy.deepcopy(dict(before)), now)
    for path in (*OF_THIS_START, *typed):
        *sections, key = path.split(".")
        target, source = merged, now
        for section in sections:
            inner = target.get(section)
            target[section] = target = inner if isinstance(inner, dict) else {}
            source = source.get(section) if isinstance(source, Mapping) else None
        if isinstance(source, Mapping) and key in source:
            target[key] = copy.deepcopy(source[key])
        else:
            target.pop(key, None)
    return merged


def _filled(before: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that are new since the run began; another component's keys do not count as such."""
    if before.get("name") != now.get("name"):
        return before
    for key, value in now.items():
        inner = before.get(key)
        if key not in before:
            before[key] = copy.deepcopy(value)
        elif isinstance(inner, dict) and isinstance(value, Mapping):
            before[key] = _filled(inner, value)
    return before


def leaf_keys(tree: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted keys of a tree's values; a component, which has a ``name``, is one."""
    paths: list[str] = []
    for key, value in tree.items():
        whole = not isinstance(value, Mapping) or "name" in value
        paths += [f"{above}{key}"] if whole else leaf_keys(value, f"{above}{key}.")
    return paths


def with_interpolating_keys(raw: Mapping[str, Any], typed: Iterable[str]) -> list[str]:
    """The keys that were typed, and those whose values refer to them, as ``${sizes.crop}`` does.

    Args:
        raw: the composed settings before references are resolved.
        typed: dotted keys.
    """
    paths = list(typed)
    for path, value in flat(raw).items():
        for reference in re.findall(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else ():
            if any(reference == key or reference.startswith(f"{key}.") for key in paths):
                paths.append(path)
    return paths
