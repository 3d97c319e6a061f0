"""Named protocols: one that differs from its yaml file is named so, as ``encoding, changed: flip``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segkit.config import compose, schema
from segkit.inference.protocol import SPEED_SETTINGS, Protocol

FREE = {"name", "every", "evaluators", *SPEED_SETTINGS}  # do not change the scores that a name stands for


def build_protocol(settings: Mapping[str, Any]) -> Protocol:
    """Return the protocol of a command's settings; its name lists the values that differ from the preset.

    Raises:
        ValueError: as ``Protocol`` does.
    """
    evaluation = {key: value for key, value in settings["evaluation"].items() if key != "every"}
    changes = find_changes(settings)
    if changes:
        evaluation["name"] += f", changed: {', '.join(changes)}"
    return Protocol(**evaluation)


def protocol_title(settings: Mapping[str, Any]) -> str:
    """Return the protocol of a command's settings as part of a folder's name: ``encoding-scales=1.0``."""
    parts = [settings["evaluation"]["name"]]
    for key, value in find_changes(settings).items():
        parts.append(f"{key}={'-'.join(map(str, value)) if isinstance(value, list) else value}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in parts)


def find_changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evaluation settings that change scores and differ from ``conf/evaluation/NAME.yaml``."""
    name = settings["evaluation"]["name"]
    if name not in schema.choices("evaluation"):
        return {}
    folders = [f"--config-dir={folder}" for folder in schema.folders[1:]]
    preset = compose.compose_tree("test", [*folders, f"evaluation={name}"]).tree["evaluation"]
    expected = compose.resolve({"sizes": settings.get("sizes"), "evaluation": preset})["evaluation"]
    changes = {}
    for key, value in settings["evaluation"].items():
        if key not in FREE and _to_list(value) != _to_list(expected.get(key)):
            changes[key] = _to_list(value)
    return changes


def _to_list(value: Any) -> Any:
    """Return a tuple as a list: checked settings have tuples, files have lists."""
    return list(value) if isinstance(value, tuple) else value
