"""Named protocols: one that differs from its yaml file is named so, as ``encoding, changed: flip``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from segkit.config import CONF
from segkit.inference.protocol import SPEED_SETTINGS, Protocol

FREE = {"name", "evaluators", *SPEED_SETTINGS}  # do not change the scores that a name stands for


def build_protocol(settings: Mapping[str, Any]) -> Protocol:
    """Return the protocol of a command's settings; its name lists the values that differ from the preset.

    Raises:
        ValueError: as ``Protocol`` does.
    """
    evaluation = {key: value for key, value in settings["evaluation"].items() if key != "every"}
    if changes := find_changes(settings):
        evaluation["name"] += f", changed: {', '.join(changes)}"
    return Protocol(**evaluation)


def protocol_title(settings: Mapping[str, Any]) -> str:
    """Return the protocol of a command's settings as part of a folder's name: ``encoding-scales=1.0``."""
    parts = [settings["evaluation"]["name"]]
    for key, value in find_changes(settings).items():
        parts.append(f"{key}={'-'.join(map(str, value)) if isinstance(value, list) else value}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in parts)


def find_changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluation settings that change scores and differ from the protocol's yaml file."""
    preset = read_preset(settings["evaluation"]["name"])
    changes = {}
    for key, given in settings["evaluation"].items():
        value, expected = _to_list(given), preset.get(key)
        if isinstance(expected, str) and expected.startswith("${sizes."):
            expected = _to_list(settings["sizes"].get(expected[8:-1]))
        if key in preset.keys() - FREE and value != expected:
            changes[key] = value
    return changes


def read_preset(name: str) -> dict[str, Any]:
    """Return the settings in ``conf/evaluation/NAME.yaml`` and the files it includes; empty without one."""
    file = CONF / "evaluation" / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        return {}
    preset = yaml.safe_load(file.read_text(encoding="utf-8"))
    for base in preset.pop("defaults", ()):
        if base != "_self_":
            preset = read_preset(base) | preset
    return preset


def _to_list(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value
