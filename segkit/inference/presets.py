"""What the files of ``conf/evaluation`` say, so that a protocol that was changed does not keep a bare name.

They are read as plain YAML: composing them is another matter, and another module's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from segkit.config import CONF
from segkit.inference.protocol import SPEED_SETTINGS, Protocol

FOLDER = CONF / "evaluation"
FREE = {"name", "evaluators", *SPEED_SETTINGS}  # they change none of the scores that a name stands for


def preset(name: str, sizes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings in the file of a protocol's name, for a data set's sizes; None if there is none."""
    file = FOLDER / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        return None
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    bases = [base for base in own.pop("defaults", []) if base != "_self_"]
    chosen: dict[str, Any] = {}
    for base in bases:
        chosen |= preset(base, sizes) or {}
    chosen |= own
    for key, value in chosen.items():
        if isinstance(value, str) and (named := re.fullmatch(r"\$\{sizes\.(\w+)\}", value)):
            chosen[key] = _listed(sizes.get(named[1]))
    return chosen


def _listed(value: Any) -> Any:
    """A tuple, which checked settings have, as the list that YAML has."""
    return list(value) if isinstance(value, tuple) else value


def protocol_changes(given: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation that differ from the file of its name, and are none of ``FREE``."""
    published = preset(given["name"], sizes)
    if published is None:
        return {}
    plain = {key: _listed(value) for key, value in given.items()}
    return {
        key: value
        for key, value in plain.items()
        if key not in FREE and key in published and value != published[key]
    }


def build_protocol(settings: Mapping[str, Any]) -> Protocol:
    """The protocol of a command's settings; changed, it says so: ``encoding, changed: scales``.

    Raises:
        ValueError: as ``Protocol`` does.
    """
    given = {key: value for key, value in settings["evaluation"].items() if key != "every"}  # of a training
    if different := protocol_changes(given, settings["sizes"]):
        given["name"] = f"{given['name']}, changed: {', '.join(different)}"
    return Protocol(**given)


def protocol_title(settings: Mapping[str, Any]) -> str:
    """The protocol of a command's settings as part of a folder's name: ``encoding-scales=1.0``."""
    given = settings["evaluation"]
    words = [given["name"]]
    for key, value in protocol_changes(given, settings["sizes"]).items():
        words.append(f"{key}={'-'.join(map(str, value)) if isinstance(value, list) else value}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in words)
