"""Settings are checked against the signatures they will be passed to, before anything is imported or built.

The keyword-only parameters of a function, with their annotations and defaults, say which keys exist, which
must be there, and what values they take. They are read from the source text, so a wrong setting is refused
without importing torch.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from segkit import components
from segkit.settings import values
from segkit.settings.signatures import Keys, keywords
from segkit.settings.values import (
    Device,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Side,
    Size,
)

__all__ = ["Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Side", "Size"]

CONF = next(
    folder / "conf" for folder in (components.ROOT, components.ROOT.parent) if (folder / "conf").is_dir()
)
"""Where the files of settings lie: in an installed segkit inside, in a checkout beside it."""
own_folders: list[Path] = []
"""What ``--config-dir`` of this command named: choices of one's own."""
SECTIONS = {
    "data": "data.datasets",
    "model": "models/segmenter.py:build",
    "model.backbone": "models.backbones",
    "model.head": "models.heads",
    "model.auxiliary": "models.heads",
    "loss": "losses",
    "augment": "data/transforms.py:Augmentation",
    "evaluation": "inference/protocols.py:Protocol",
    "schedule": "training/schedule.py:Schedule",
    "schedule.optimiser": "training.optimisers",
    "schedule.policy": "training.policies",
    "checkpoint": "checkpoint.py:Keeping",
    "runtime": "system/runtime.py:Runtime",
}
"""Where each section goes: a package of components, or ``file:function`` (``file:Class`` for its fields)."""

LISTS = {
    "loss.parts": "losses",
    "augment.also": "data.augmentations",
    "evaluation.evaluators": "evaluation.evaluators",
    "writers": "monitor.writers",
}
"""Settings that list components of a package by name, each with its own settings."""

Workers = Annotated[int, Range(least=0, most=256)]
SIZES = {"sizes.base": Side, "sizes.crop": Size, "sizes.bounds": Size}
TRAINED = (  # of the commands that use a trained network
    {"checkpoint": str | None, "output": str | None, "device": Device, "resume": bool, "submission": bool}
    | SIZES
    | dict.fromkeys(("data", "model", "evaluation"), dict)
)
COMMANDS: dict[str, dict[str, Any]] = {
    "train": {
        "run_name": str,
        "run_dir": str,
        "seed": NonNegativeInt,
        "device": Device,
        "resume": bool | Literal["auto"],
        "summary": bool,
        "profile": bool,
        "lr_finder": bool,
        "loader.workers": Workers,
        "writers": dict[str, dict | bool | None],
        "evaluation.every": Annotated[float, Range(least=1e-4)],
    }
    | SIZES
    | dict.fromkeys(
        ("data", "model", "loss", "augment", "evaluation", "schedule", "checkpoint", "runtime"), dict
    ),
    "test": TRAINED
    | {
        "save": list[Literal["ids", "colours", "overlays"]],
        "report": bool,
        "loader.workers": Workers,
    },
    "predict": TRAINED
    | {
        "input": str | None | NonNegativeInt,
        "save": list[Literal["ids", "colours", "overlays", "probabilities"]],
    },
    "export": {
        "checkpoint": str | None,
        "output": str | None,
        "format": Literal["onnx", "openvino", "torch_export", "torchscript"],
        "interface": Literal["ids", "logits"],
        "image_size": Size | None,
        "precision": Literal["fp32", "fp16", "int8"],
        "input": str | None,
        "images": PositiveInt,
        "calibration": str | None,
        "calibration_images": PositiveInt,
    }
    | SIZES
    | dict.fromkeys(("data", "model", "evaluation"), dict),
}
"""What each command accepts besides the keys that ``SECTIONS`` gives; ``dict`` marks a section."""

EVERYWHERE = {"plugins": list[str]}
"""What every command accepts, and does without."""
OPTIONAL = {"test": ("sizes",), "predict": ("sizes", "data"), "export": ("sizes", "data")}
"""What a command does without, where a checkpoint does not say it; every other key must be there."""


def check(what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every value of its declared type.

    Args:
        what: a command (``train``), or a section such as ``model``.
        settings: as they were composed.

    Raises:
        ValueError: keys that do not exist or are missing, values of a wrong type or out of range; all of
            them, one a line, each with what is accepted.
    """
    faults: list[str] = []
    if what in COMMANDS:
        optional = (*EVERYWHERE, *OPTIONAL.get(what, ()))
        checked = _section(settings, "", EVERYWHERE | COMMANDS[what], faults, optional=optional)
    else:
        checked = _section(settings, what, {}, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def missing(command: str, settings: Iterable[Any]) -> list[str]:
    """For each top-level key that is not there, how to give it."""
    keys, _ = _keys("", {}, COMMANDS[command])
    lost = [key for key in keys if key not in settings and key not in OPTIONAL.get(command, ())]
    return [_missing(key, keys[key], COMMANDS[command]) for key in lost]


def _section(
    section: Any, path: str, extra: Mapping[str, Any], faults: list[str], *, optional: Iterable[str] = ()
) -> dict[str, Any]:
    """One section and those inside it; what is wrong is appended to ``faults``."""
    if not isinstance(section, Mapping):
        faults.append(_not_a_group(path, section))
        return {}
    try:
        accepted, required = _keys(path, section, extra)
    except ValueError as error:
        faults.append(f"{path}.name={section.get('name')}: {error}")
        return {}
    checked = _checked(section, path, Keys(accepted, required), extra, faults)
    missing = [key for key in required if key not in section and key not in optional]
    faults += [_missing(f"{path}.{key}".lstrip("."), accepted[key], extra) for key in missing]
    return checked


def _checked(
    section: Mapping[str, Any], path: str, keys: Keys, extra: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    checked, accepted = {}, keys.accepted
    for key, value in section.items():
        full = f"{path}.{key}".lstrip(".")
        if key not in accepted:
            faults += _no_such_setting(full, value, accepted)
        elif accepted[key] is dict or (accepted[key] == dict | None and value is not None):
            inner = {k[len(key) + 1 :]: v for k, v in extra.items() if k.startswith(key + ".")}
            checked[key] = _section(value, full, inner, faults)
        elif typing.get_origin(accepted[key]) is dict:
            checked[key] = _parts(value, full, faults)
        else:
            try:
                checked[key] = values.coerce(value, accepted[key])
            except ValueError:
                faults.append(f"{full}={value}: must be {values.describe(accepted[key])}")
    return checked


def _parts(parts: Any, path: str, faults: list[str]) -> dict[str, Any]:
    """Components by their names, each with its settings; null leaves one out, and true takes its defaults."""
    checked, package = {}, LISTS[path]
    for name, part in parts.items() if isinstance(parts, Mapping) else [("NAME", parts)]:
        full = f"{path}.{name}"
        try:
            accepted = keywords(f"{components.source(package, name)}:build").accepted
        except ValueError as error:
            faults.append(f"{full}={part}: {error}")
            continue
        if package == "losses":  # of a sum, whose own the auxiliary head's weight is
            accepted = {"weight": values.NonNegativeFloat} | accepted
            accepted.pop("aux_weight", None)
        if isinstance(part, Mapping):
            checked[name] = _checked(part, full, Keys(accepted, ()), {}, faults)
        elif isinstance(part, bool) and package != "losses":
            checked[name] = part
        elif part is not None:
            faults.append(f"{full}={part}: this is a group; say {full}.{next(iter(accepted), 'KEY')}={part}")
    return checked


def _keys(path: str, section: Mapping[str, Any], extra: Mapping[str, Any]) -> Keys:
    where = SECTIONS.get(path)
    accepted = {key.split(".")[0]: dict if "." in key else kind for key, kind in extra.items()}
    if where is None:
        return Keys(accepted, tuple(accepted))
    required = tuple(accepted)
    if ":" not in where:  # a package: the component's name says which file
        accepted["name"] = str
        where = f"{components.source(where, section.get('name'))}:build"
    own = keywords(where)
    return Keys(accepted | own.accepted, required + own.required)


def unknown(path: str, section: Mapping[str, Any]) -> list[str]:
    """Keys of a section that its component does not have; none where there is no such component."""
    try:
        accepted = _keys(path, section, {}).accepted
    except ValueError:
        return []
    return [key for key in section if key not in accepted]


def _not_a_group(path: str, value: Any) -> str:
    group = path.replace(".", "/")
    if value is None and choices(group):
        return f"{path}=null: one is needed; choose it with {group}=NAME ({', '.join(choices(group))})"
    return f"{path}={value}: this is a group; choose a file of it with {group}={value}"


def _missing(path: str, annotation: Any, extra: Mapping[str, Any]) -> str:
    if annotation is not dict:
        return f"{path} is missing; give it with {path}=... ({values.describe(annotation)})"
    group = path.replace(".", "/")
    if names := choices(group):
        return f"{path} is missing; choose it with {group}=NAME ({', '.join(names)})"
    keys = [key for key in extra if key.startswith(f"{path}.")]
    keys += [f"{path}.{key}" for key in (keywords(SECTIONS[path]).accepted if path in SECTIONS else ())]
    return f"{path} is missing; give it with {' '.join(f'{key}=...' for key in keys)}"


def choices(group: str) -> list[str]:
    """The files that can be chosen in a group such as ``model/backbone``; none where it is no group."""
    return sorted({file.stem for folder in (CONF, *own_folders) for file in (folder / group).glob("*.yaml")})


def choice_fault(group: str, name: str) -> str | None:
    """What is wrong with choosing a file of a group, if anything."""
    names = choices(group)
    if name in (*names, "null", ""):
        return None
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {group}={close[0]}? " if close else ""
    return f"{group}={name}: there is no such choice; {hint}there are: {', '.join(names)}"


def is_text(command: str, path: str) -> bool:
    """Whether a key of the command line takes text and no number, whichever component is chosen."""
    section, _, key = path.rpartition(".")
    if not section:
        return values.takes_text(COMMANDS[command].get(key, dict))
    if section not in SECTIONS:
        return False
    where = SECTIONS[section]
    names = () if ":" in where else components.available(where)
    modules = [f"{components.source(where, name)}:build" for name in names] or [where]
    signatures = [keywords(module).accepted for module in modules]
    kinds = [accepted[key] for accepted in signatures if key in accepted]
    return bool(kinds) and all(values.takes_text(kind) for kind in kinds)


def _no_such_setting(full: str, value: Any, accepted: Iterable[str]) -> list[str]:
    """One line for a setting, or for each of a group that is not there; another group may have the same."""
    path, _, key = full.rpartition(".")
    names = sorted(accepted)
    close = [f"{path}.{name}".lstrip(".") for name in difflib.get_close_matches(key, names, n=1)]
    others = {name: keywords(SECTIONS[name]).accepted for name in names if ":" in SECTIONS.get(name, "")}
    lines = []
    for leaf, given in value.items() if isinstance(value, Mapping) and value else [("", value)]:
        meant = [f"{name}.{leaf}" for name, keys in others.items() if leaf in keys] or close
        hint = f"did you mean {' or '.join(meant)}? " if meant else ""
        there = f"{hint}{path or 'the top level'} accepts: {', '.join(names)}"
        lines.append(f"{full}.{leaf}".rstrip(".") + f"={given}: there is no such setting; {there}")
    return lines
