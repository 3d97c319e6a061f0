"""The schema of all settings: the keys of each command, and the signatures that each section is passed to.

The keyword-only parameters of ``build``, or the fields of a dataclass, are the keys of a section. They are
read from the source text, so that a wrong setting is refused without importing torch.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from segkit.config import registry, values

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
LISTS = {  # settings that list components of a package by name, each with its own settings
    "loss.parts": "losses",
    "augment.extra": "data.augmentations",
    "evaluation.evaluators": "evaluation.evaluators",
    "writers": "monitor.writers",
}
Component = dict | bool | None  # true takes the defaults of a component in a list, null omits it
Workers = Annotated[int, values.Interval(ge=0, le=256)]
Pictures = Literal["ids", "colors", "overlays"]
LOADER = {
    "workers": Workers,
    "sampling": Literal["uniform", "repeat_factor"],
    "repeat_threshold": Annotated[float, values.Interval(gt=0, le=1)],
}
ALL = {"plugins": list[str], "sizes": {"base": values.Side, "crop": values.Size, "bounds": values.Size}}
TRAINED = (
    ALL
    | dict.fromkeys(("checkpoint", "output"), values.PathOrNull)
    | dict.fromkeys(("data", "model", "evaluation"), dict)
)
IMAGES = TRAINED | {"device": values.Device} | dict.fromkeys(("resume", "submission", "trust_code"), bool)
COMMANDS: dict[str, dict[str, Any]] = {
    "train": ALL
    | {"run_name": str, "run_dir": values.PathStr, "seed": values.NonNegativeInt, "device": values.Device}
    | {"resume": bool | Literal["auto"]}
    | dict.fromkeys(("summary", "profile", "lr_finder"), bool)
    | {"loader": LOADER, "writers": dict[str, Component]}
    | {"evaluation": {"every": Annotated[float, values.Interval(ge=1e-4)]}}
    | dict.fromkeys(("data", "model", "loss", "augment", "schedule", "checkpoint", "runtime"), dict),
    "test": IMAGES
    | {"save": list[Pictures], "report": bool, "loader": {"workers": Workers}}
    | {"predictions": values.PathOrNull, "predictions_format": Literal["auto", "ids", "raw", "colors"]},
    "predict": IMAGES | {"input": values.InputSource, "save": list[Pictures | Literal["probabilities"]]},
    "export": TRAINED
    | {"format": Literal["onnx", "openvino", "torch_export"], "interface": Literal["ids", "logits"]}
    | {"image_size": values.Size | None, "precision": Literal["fp32", "fp16", "int8"]}
    | {"input": values.PathOrNull, "images": values.PositiveInt}
    | {"calibration": values.PathOrNull, "calibration_images": values.PositiveInt},
}
"""What each command accepts; ``dict`` is a section of ``SECTIONS``, and a dict has keys besides those."""
OPTIONAL = {  # top-level keys that a command does not require
    "train": {"plugins"},
    "test": {"plugins", "sizes", "model"},  # predictions=DIR has no model
    "predict": {"plugins", "sizes", "data"},
    "export": {"plugins", "sizes", "data"},
}
START_KEYS = ("plugins", "resume", "run_name", "run_dir", "device", "summary", "profile", "lr_finder")
"""Keys that are never taken from the run to resume."""


class Keys(NamedTuple):
    """The keys of a section with their annotations, and those that are required."""

    accepted: dict[str, Any]
    required: set[str]


class _Names(dict[str, Any]):
    """The names that annotations of a module may use: of ``typing`` and ``values``, and its own aliases."""

    def __init__(self, module: ast.Module) -> None:
        super().__init__(vars(typing) | vars(values))
        self.aliases = {ast.unparse(n.targets[0]): n.value for n in module.body if isinstance(n, ast.Assign)}

    def __missing__(self, name: str) -> Any:
        return eval(ast.unparse(self.aliases[name]), {}, self)  # a KeyError: a builtin, or unknown


@cache
def read_keywords(place: str) -> Keys:
    """Return the keyword-only parameters of a function, or the fields of a class.

    Args:
        place: ``"models/segmenter.py:build"``: a file, absolute or relative to ``segkit/``, and a name in it.

    Raises:
        ValueError: the file has no function of that name, or an annotation cannot be read.
    """
    file, _, name = place.rpartition(":")
    module = ast.parse((registry.ROOT / file).read_text(encoding="utf-8"))
    definitions = [n for n in module.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    node = next((n for n in definitions if n.name == name), None)
    if node is None:
        raise ValueError(f"{file}: a component needs a function {name}, and there is none")
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        declared = [(ast.unparse(n.target), n.annotation, n.value) for n in fields]
    else:
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        declared = [(a.arg, a.annotation, default) for a, default in pairs if a.annotation is not None]
    names = _Names(module)
    try:
        accepted = {key: eval(ast.unparse(annotation), {}, names) for key, annotation, _ in declared}
    except NameError as error:
        raise ValueError(f"{file}: {error} in the annotation of a setting (docs/plugins.md)") from error
    return Keys(accepted, {key for key, _, default in declared if default is None})


def read_component(package: str, name: object) -> Keys:
    """Return the settings of a component, or raise a ValueError if there is none of that name."""
    return read_keywords(f"{registry.find_component(package, name)[1]}:build")


def read_section(path: str, section: Mapping[str, Any]) -> Keys:
    """Return the keys of a section, of a list of components, or of a component in a list.

    Args:
        path: dotted, such as ``model.head``, ``writers`` or ``writers.jsonl``.
        section: its settings; ``name`` is read, and a ValueError raised if there is no such component.
    """
    parent, _, name = path.rpartition(".")
    place = SECTIONS.get(path, "")
    if path in LISTS:
        return Keys(dict.fromkeys(registry.available(LISTS[path]), Component), set())
    if parent == "loss.parts":  # a part has a weight; the weight of the auxiliary head belongs to the sum
        accepted = {"weight": values.NonNegativeFloat} | read_component(LISTS[parent], name).accepted
        return Keys({key: kind for key, kind in accepted.items() if key != "aux_weight"}, set())
    if parent in LISTS:
        return read_component(LISTS[parent], name)
    if ":" in place:
        return read_keywords(place)
    if place:
        accepted, required = read_component(place, section.get("name"))
        return Keys({"name": str} | accepted, required)
    return Keys({}, set())


def choices(group: str) -> list[str]:
    """Return the files of a group such as ``model/backbone``; none if it is not a group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
