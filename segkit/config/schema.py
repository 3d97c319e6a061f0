"""The schema of all settings: the keys of each command, and the signatures that each section is passed to.

The keyword-only parameters of a component's ``build``, or the fields of a dataclass, with their annotations
and defaults, say which keys exist, which are required, and what values they take. They are read from the
source text, so that a wrong setting is refused without importing torch.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from segkit.config import registry, values
from segkit.config.dotted import value_of

CONF = next(folder / "conf" for folder in (registry.ROOT, registry.ROOT.parent) if (folder / "conf").is_dir())
"""Folder of the yaml files: inside an installed segkit, next to it in a checkout."""
folders = [CONF]
"""Where files of groups are searched: in ours, then in those that ``--config-dir`` names."""
SECTIONS = {
    "data": "data.datasets",
    "model": "models/segmenter.py:build",
    "model.backbone": "models.backbones",
    "model.head": "models.heads",
    "model.auxiliary": "models.heads",
    "loss": "losses",
    "augment": "data/transforms.py:Augmentation",
    "evaluation": "inference/protocol.py:Protocol",
    "schedule": "training/schedule.py:Schedule",
    "schedule.optimizer": "training.optimizers",
    "schedule.lr_schedule": "training.lr_schedules",
    "checkpoint": "checkpoint.py:CheckpointConfig",
    "runtime": "runtime/precision.py:Runtime",
}
"""What each section is passed to: a package of components, or a function or class ``file:name``."""
LISTS = {
    "loss.parts": "losses",
    "augment.extra": "data.augmentations",
    "evaluation.evaluators": "evaluation.evaluators",
    "writers": "monitor.writers",
}
"""Settings that list components of a package by name, each with its own settings."""
Workers = Annotated[int, values.Interval(ge=0, le=256)]
ALL = {"plugins": list[str], "sizes": {"base": values.Side, "crop": values.Size, "bounds": values.Size}}
TRAINED = ALL | {
    "checkpoint": values.PathOrNull,
    "output": values.PathOrNull,
    "data": dict,
    "model": dict,
    "evaluation": dict,
}
IMAGES = TRAINED | {"device": values.Device, "resume": bool, "submission": bool, "trust_code": bool}
COMMANDS: dict[str, dict[str, Any]] = {
    "train": ALL
    | {
        "run_name": str,
        "run_dir": values.PathStr,
        "seed": values.NonNegativeInt,
        "device": values.Device,
        "resume": bool | Literal["auto"],
        "summary": bool,
        "profile": bool,
        "lr_finder": bool,
        "loader": {
            "workers": Workers,
            "sampling": Literal["uniform", "repeat_factor"],
            "repeat_threshold": Annotated[float, values.Interval(gt=0, le=1)],
        },
        "writers": dict[str, dict | bool | None],
        "evaluation": {"every": Annotated[float, values.Interval(ge=1e-4)]},
    }
    | dict.fromkeys(("data", "model", "loss", "augment", "schedule", "checkpoint", "runtime"), dict),
    "test": IMAGES
    | {
        "save": list[Literal["ids", "colors", "overlays"]],
        "report": bool,
        "loader": {"workers": Workers},
        "predictions": values.PathOrNull,
        "predictions_format": Literal["auto", "ids", "raw", "colors"],
    },
    "predict": IMAGES
    | {"input": values.InputSource, "save": list[Literal["ids", "colors", "overlays", "probabilities"]]},
    "export": TRAINED
    | {
        "format": Literal["onnx", "openvino", "torch_export"],
        "interface": Literal["ids", "logits"],
        "image_size": values.Size | None,
        "precision": Literal["fp32", "fp16", "int8"],
        "input": values.PathOrNull,
        "images": values.PositiveInt,
        "calibration": values.PathOrNull,
        "calibration_images": values.PositiveInt,
    },
}
"""What each command accepts; ``dict`` is a section of ``SECTIONS``, and a dict has keys besides those."""
OPTIONAL = {
    "train": {"plugins"},
    "test": {"plugins", "sizes", "model"},  # predictions=DIR has no model
    "predict": {"plugins", "sizes", "data"},
    "export": {"plugins", "sizes", "data"},
}
"""Top-level keys that a command does not require."""


class Keys(NamedTuple):
    """The keys of a section with their annotations, and those that are required."""

    accepted: dict[str, Any]
    required: set[str]


class _Names(dict[str, Any]):
    """The names that annotations of a module may use: those of ``values``, and imported aliases."""

    def __init__(self, file: Path) -> None:
        super().__init__(vars(typing) | vars(values))
        self.file, self.tree = file, ast.parse(file.read_text(encoding="utf-8"))

    def __missing__(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return eval(ast.unparse(node.value), {}, self)
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return _read_names(registry.module_file(node.module or ""))[name]
        raise KeyError(name)  # a builtin, or unknown


@cache
def _read_names(file: Path) -> _Names:
    return _Names(file)


@cache
def read_keywords(place: str) -> Keys:
    """Return the keyword-only parameters of a function, or the fields of a class, with their annotations.

    Args:
        place: ``"models/segmenter.py:build"``: a file, absolute or relative to ``segkit/``, and a name in it.

    Raises:
        ValueError: the file has no function of that name, or an annotation cannot be read.
    """
    file, _, name = place.rpartition(":")
    names = _read_names(registry.ROOT / file)
    nodes = [n for n in names.tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    node = next((n for n in nodes if n.name == name), None)
    if node is None:
        raise ValueError(f"{names.file}: a component needs a function {name}, and there is none")
    if isinstance(node, ast.ClassDef):
        fields = [(n.target, n.annotation, n.value) for n in node.body if isinstance(n, ast.AnnAssign)]
        declared = [(ast.unparse(target), annotation, default) for target, annotation, default in fields]
    else:
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        declared = [(a.arg, a.annotation, default) for a, default in pairs if a.annotation is not None]
    try:
        accepted = {key: eval(ast.unparse(annotation), {}, names) for key, annotation, _ in declared}
    except NameError as error:
        raise ValueError(
            f"{names.file}: {error} in the annotation of a setting. Use Python's types, typing,"
            " segkit.config, or an alias in a module of segkit or the plug-in"
        ) from error
    return Keys(accepted, {key for key, _, default in declared if default is None})


def read_component(package: str, name: object) -> Keys:
    """Return the settings of a component, or raise a ValueError if there is none of that name."""
    return read_keywords(f"{registry.component_file(package, name)}:build")


def read_section(path: str, section: Mapping[str, Any]) -> Keys:
    """Return the keys of a section, of the component that it names, or of one in a list.

    Args:
        path: dotted, such as ``model.head`` or ``writers.jsonl``.
        section: its settings; ``name`` is read.

    Raises:
        ValueError: there is no such component.
    """
    parent, _, name = path.rpartition(".")
    place = SECTIONS.get(path)
    if parent == "loss.parts":  # a part has a weight; the weight of the auxiliary head belongs to the sum
        accepted = {"weight": values.NonNegativeFloat} | read_component(LISTS[parent], name).accepted
        return Keys({key: kind for key, kind in accepted.items() if key != "aux_weight"}, set())
    if parent in LISTS:
        return read_component(LISTS[parent], name)
    if place is None:
        return Keys({}, set())
    if ":" in place:
        return read_keywords(place)
    accepted, required = read_component(place, section.get("name"))
    return Keys({"name": str} | accepted, required)


def read_keys(path: str) -> dict[str, list[Any]]:
    """Return the keys of a section ("" is the top level) with the types that they take anywhere."""
    declared = [value_of(keys, path) for keys in COMMANDS.values()]
    signatures = [keys for keys in declared if isinstance(keys, dict)]
    place = SECTIONS.get(path, "")
    if ":" in place:
        signatures.append(read_keywords(place).accepted)
    elif place:
        signatures += [read_component(place, name).accepted for name in registry.available(place)]
    found: dict[str, list[Any]] = {}
    for accepted in signatures:
        for key, kind in accepted.items():
            found.setdefault(key, []).append(kind)
    return found


def known_keys(top: Iterable[str]) -> list[str]:
    """Return the dotted keys of all sections under top-level keys, of all components together."""
    top = dict.fromkeys(top)
    paths = [path for path in (top | SECTIONS) if path.split(".")[0] in top]
    return [*top, *(f"{path}.{key}" for path in paths for key in read_keys(path))]


def choices(group: str) -> list[str]:
    """Return the files of a group such as ``model/backbone``; none if it is not a group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def groups(top: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups under top-level keys, such as ``model/backbone``, with their files."""
    named = [path.replace(".", "/") for path in SECTIONS if path.split(".")[0] in top]
    return {group: files for group in named if (files := choices(group))}
