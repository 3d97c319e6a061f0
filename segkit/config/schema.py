"""Settings are checked against the signatures they will be passed to, before anything is imported or built.

The keyword-only parameters of a function, with their annotations and defaults, say which keys exist, which
must be there, and what values they take. They are read from the source text, so a wrong setting is refused
without importing torch.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segkit.config import declared, hints, registry, values
from segkit.config.declared import COMMANDS, CONF, EVERYWHERE, LISTS, OPTIONAL, SECTIONS
from segkit.config.dotted import flat, value_of
from segkit.config.signatures import Keys, read_keywords


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


def missing_key_message(command: str, settings: Iterable[Any]) -> list[str]:
    """For each top-level key that is not there, how to give it."""
    keys, _ = _keys("", {}, COMMANDS[command])
    lost = [key for key in keys if key not in settings and key not in OPTIONAL.get(command, ())]
    return [_missing(key, keys[key], COMMANDS[command]) for key in lost]


def _section(
    section: Any, path: str, extra: Mapping[str, Any], faults: list[str], *, optional: Iterable[str] = ()
) -> dict[str, Any]:
    """One section and those inside it; what is wrong is appended to ``faults``."""
    if not isinstance(section, Mapping):
        faults.append(section_expected(path, section))
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
    if not isinstance(parts, Mapping):
        faults.append(section_expected(path, parts))
        return {}
    for name, part in parts.items():
        full = f"{path}.{name}"
        try:
            accepted = read_keywords(f"{registry.component_file(package, name)}:build").accepted
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
        where = f"{registry.component_file(where, section.get('name'))}:build"
    own = read_keywords(where)
    return Keys(accepted | own.accepted, required + own.required)


def unknown_key_message(path: str, section: Mapping[str, Any]) -> list[str]:
    """Keys of a section that its component does not have; none where there is no such component."""
    try:
        accepted = _keys(path, section, {}).accepted
    except ValueError:
        return []
    return [key for key in section if key not in accepted]


def section_expected(path: str, value: Any) -> str:
    """What to say where a value stands in the place of a group of settings."""
    group, wrong = path.replace(".", "/"), f"{path}={value}: this is a group"
    if path in LISTS:
        of_each, names = LISTS[path], registry.available(LISTS[path])
        default = f"{path}.NAME{'.weight=1' if of_each == 'losses' else '=true'}"
        return f"{wrong}; give each by its name, {default}; there are: {', '.join(names) or 'none yet'}"
    if names := choices(group):
        if value is None:
            return f"{path}=null: one is needed; choose it with {group}=NAME ({', '.join(names)})"
        if known := backbone_setting(str(value)) if group == "model/backbone" else None:
            return f"{wrong}; choose a file of it with {known}"
        how = f"{group}={value}" if value in names else f"{group}=NAME ({', '.join(names)})"
        return f"{wrong}; choose a file of it with {how}"
    own = read_keywords(SECTIONS[path]).accepted if ":" in SECTIONS.get(path, "") else ()
    if path == "checkpoint" and isinstance(value, str) and not value.startswith("["):
        return f"{wrong}; to start from a file: model.weights={value}; to continue: run_name=NAME resume=true"
    return f"{wrong}; say {path}.KEY=..." + (f" ({', '.join(own)})" if own else "")


def _missing(path: str, annotation: Any, extra: Mapping[str, Any]) -> str:
    if annotation is not dict:
        return f"{path} is missing; give it with {path}=... ({values.describe(annotation)})"
    group = path.replace(".", "/")
    if names := choices(group):
        return f"{path} is missing; choose it with {group}=NAME ({', '.join(names)})"
    keys = [key for key in extra if key.startswith(f"{path}.")]
    keys += [f"{path}.{key}" for key in (read_keywords(SECTIONS[path]).accepted if path in SECTIONS else ())]
    return f"{path} is missing; give it with {' '.join(f'{key}=...' for key in keys)}"


def choices(group: str) -> list[str]:
    """The files that can be chosen in a group such as ``model/backbone``; none where it is no group."""
    return sorted(
        {file.stem for folder in (CONF, *declared.own_folders) for file in (folder / group).glob("*.yaml")}
    )


def unknown_choice(group: str, name: str) -> str | None:
    """Return what is wrong with choosing a file of a group, None where it is there."""
    names = choices(group)
    if name in (*names, "null", ""):
        return None
    if group == "data" and hints.is_path(name):
        return f"data={name}: data= chooses a kind of data set; did you mean data=folder data.root={name}?"
    if group == "model" and Path(name).suffix in (".pt", ".pth", ".onnx"):
        return (
            f"model={name}: model= chooses a network; did you mean checkpoint={name} or model.weights={name}?"
        )
    if group == "model/backbone" and (known := backbone_setting(name)):
        return f"{group}={name}: there is no such choice; did you mean {known}?"
    inner = [f"{group}/{folder.name}" for folder in sorted((CONF / group).glob("*/"))]
    meant = [f"{group}={near}" for near in hints.find_similar(name, names)]
    meant += [f"{other}={name}" for other in inner if name in choices(other)]
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"{group}={name}: there is no such choice; {hint}there are: {', '.join(names)}"


def backbone_setting(name: str) -> str | None:
    """Return the settings of a backbone by the name that people know, such as ``se_resnet50``."""
    for file in sorted((CONF / "model" / "backbone").glob("*.yaml")):
        family, text = file.stem, file.read_text(encoding="utf-8")
        if not (found := re.search(r'^variant: "(\D*)\d', text, re.MULTILINE)):
            continue
        depth = name.removeprefix(family)
        if family == "resnet" and name.startswith("resnext"):
            depth = name.removeprefix("resnext")
        component = "resnest" if family == "resnest" else "resnet"
        variants = typing.get_args(
            read_keywords(f"models/backbones/{component}.py:build").accepted["variant"]
        )
        if depth != name and f"{found[1]}{depth}" in variants:
            return f"model/backbone={family} model.backbone.variant={found[1]}{depth}"
    return None


def is_text(command: str, path: str) -> bool:
    """Return whether a key takes text and no number, whichever component is chosen."""
    kinds = _annotations(command, path)
    return bool(kinds) and all(values.takes_text(kind) for kind in kinds)


def may_be_text(command: str, path: str) -> bool:
    """Return whether a key takes text among other things."""
    return any({str, values.PathStr} & {*values.members(kind)} for kind in _annotations(command, path))


def expand_paths(command: str, settings: dict[str, Any]) -> None:
    """Replace a leading ``~`` in every setting that names a file or folder, in place.

    Raises:
        ValueError: there is no such user.
    """
    for path, value in flat(settings).items():
        texts = value if isinstance(value, list) else [value]
        if not any(isinstance(text, str) and text.startswith("~") for text in texts):
            continue
        if not any(values.takes_path(kind) for kind in _annotations(command, path)):
            continue
        try:
            expanded = [values.expand_home(str(text)) for text in texts]
        except ValueError as error:
            raise ValueError(f"{path}={error}") from error
        section, _, key = path.rpartition(".")
        (value_of(settings, section) if section else settings)[key] = (
            expanded if isinstance(value, list) else expanded[0]
        )


def _annotations(command: str, path: str) -> list[Any]:
    """Return what a key may take, by every component that has it."""
    section, _, key = path.rpartition(".")
    if not section:
        return [COMMANDS[command].get(key, dict)]
    return [accepted[key] for accepted in _signatures(section) if key in accepted]


def _signatures(section: str) -> list[Mapping[str, Any]]:
    """Return the keys of a section, for each of its components."""
    if section not in SECTIONS:
        return []
    where = SECTIONS[section]
    names = () if ":" in where else registry.available(where)
    modules = [f"{registry.component_file(where, name)}:build" for name in names] or [where]
    return [read_keywords(module).accepted for module in modules]


def _no_such_setting(full: str, value: Any, accepted: Iterable[str]) -> list[str]:
    """Return a line for each leaf of an unknown setting, with what may be meant."""
    path, _, key = full.rpartition(".")
    names = sorted(accepted)
    lines = []
    for leaf, given in flat({key: value} if value != {} else {key: None}).items():
        typed = f"{path}.{leaf}".lstrip(".")
        close = [f"{path}.{name}".lstrip(".") for name in difflib.get_close_matches(key, names, n=1)]
        tops = () if path else names
        others = [f"{name}_seg.py" for name, keys in COMMANDS.items() if not path and leaf in keys]
        if not path and not others and not suggest(leaf, given, tops) and (elsewhere := suggest(leaf, given)):
            lines.append(f"{typed}={given}: there is no such setting; train_seg.py takes {elsewhere[0]}")
            continue
        near = [f"{name}={hints.write_value(given)}" for name in close]
        meant = [
            word for word in suggest(leaf, given, tops) if not path or not word.startswith(f"{path}.{key}=")
        ]
        meant = near if path and near else meant or near
        if meant:
            hint = f"did you mean {' or '.join(meant)}?"
        elif elsewhere := hints.explain_elsewhere(leaf, given):
            hint = elsewhere
        elif others:
            hint = f"it is a setting of {', '.join(others)}"
        else:
            hint = f"{path or 'the top level'} accepts: {', '.join(names)}"
        lines.append(f"{typed}={hints.write_value(given)}: there is no such setting; {hint}")
    return lines


def suggest(key: str, value: Any, tops: Iterable[str] = ()) -> list[str]:
    """Return the settings that an unknown key may stand for, as they are typed.

    Args:
        key: as typed.
        value: likewise.
        tops: top-level keys of the command; none: those of every command.
    """
    tops = {*tops} or {key for keys in COMMANDS.values() for key in keys}
    sections = {"": [top for top in tops if "." not in top]}
    sections |= {p: {k for keys in _signatures(p) for k in keys} for p in SECTIONS if p.split(".")[0] in tops}
    for dotted in (key for keys in COMMANDS.values() for key in keys if "." in key):
        section, _, name = dotted.rpartition(".")
        if section.split(".")[0] in tops:
            sections[section] = {*sections.get(section, ()), name}
    groups = {
        p.replace(".", "/"): names
        for p in SECTIONS
        if p.split(".")[0] in tops and (names := choices(p.replace(".", "/")))
    }
    meant = hints.suggest(key, value, sections=sections, groups=groups)
    if meant and meant[0].startswith("model/backbone=") and (known := backbone_setting(str(value))):
        return [known]
    return meant
