"""Settings are checked against the signatures they will be passed to, before anything is imported or built.

The keyword-only parameters of a function, with their annotations and defaults, say which keys exist and what
values they take. They are read from the source text, so a wrong setting is refused without importing torch.
"""

from __future__ import annotations

import ast
import difflib
import types as python_types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from segkit import components


class Range(NamedTuple):
    """Bounds of a number; ``above`` excludes its value, ``least`` and ``most`` include theirs."""

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and value == value
        )

    def __str__(self) -> str:
        words = []
        if self.above is not None:
            words.append(f"above {self.above:g}")
        if self.least is not None:
            words.append(f"at least {self.least:g}")
        if self.most is not None:
            words.append(f"at most {self.most:g}")
        return " and ".join(words)


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
Size = PositiveInt | tuple[PositiveInt, PositiveInt]  # one side of a square, or [height, width]

SECTIONS = {
    "data": "data.datasets",
    "model": "models/segmenter.py:build",
    "model.backbone": "models.backbones",
    "model.head": "models.heads",
    "model.auxiliary": "models.heads",
    "loss": "losses",
    "augment": "data/transforms.py:build",
    "evaluation": "inference/protocol.py:protocol",
    "schedule": "training.py:Schedule",
    "schedule.optimiser": "optimisers",
    "schedule.policy": "schedules",
    "checkpoint": "checkpoint.py:Keeping",
    "runtime": "runtime.py:Runtime",
}
"""Where each section goes: a package of components, or ``file:function`` (``file:Class`` for its fields)."""

DEVICE = Literal["auto", "cpu", "cuda"]
SIZES = {"sizes.base": PositiveInt, "sizes.crop": Size, "sizes.bounds": Size}
TRAINED = (  # of the commands that use a trained network
    {"checkpoint": str | None, "output": str | None, "device": DEVICE, "resume": bool, "submission": bool}
    | SIZES
    | dict.fromkeys(("data", "model", "evaluation"), dict)
)
COMMANDS: dict[str, dict[str, Any]] = {
    "train": {
        "run_name": str,
        "run_dir": str | None,
        "seed": NonNegativeInt,
        "device": DEVICE,
        "resume": bool | Literal["auto"],
        "summary": bool,
        "profile": bool,
        "loader.workers": NonNegativeInt,
        "evaluation.every": PositiveFloat,
    }
    | SIZES
    | dict.fromkeys(
        ("data", "model", "loss", "augment", "evaluation", "schedule", "checkpoint", "runtime"), dict
    ),
    "test": TRAINED
    | {
        "save": list[Literal["ids", "colours", "overlays"]],
        "report": bool,
        "loader.workers": NonNegativeInt,
    },
    "predict": TRAINED
    | {
        "input": str | None | NonNegativeInt,
        "save": list[Literal["ids", "colours", "overlays", "probabilities"]],
    },
}
"""What each command accepts besides the keys that ``SECTIONS`` gives; ``dict`` marks a section."""


@cache
def keywords(where: str) -> dict[str, Any]:
    """Names and annotations of the keyword-only parameters of a function, or of the fields of a class.

    Args:
        where: ``"models/segmenter.py:build"``, a file below ``segkit/`` and a name in it.
    """
    file, name = where.split(":")
    tree = ast.parse((components.ROOT / file).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)
    if isinstance(node, ast.ClassDef):
        pairs = [(n.target, n.annotation) for n in node.body if isinstance(n, ast.AnnAssign)]
        found = {target.id: annotation for target, annotation in pairs if isinstance(target, ast.Name)}
    else:
        found = {a.arg: a.annotation for a in node.args.kwonlyargs if a.annotation is not None}
    words = {**vars(typing), **globals()}
    return {key: eval(ast.unparse(annotation), words) for key, annotation in found.items()}


def check(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with every value of its declared type.

    Raises:
        ValueError: keys that do not exist, values of a wrong type or out of range; all of them, one a line,
            each with what is accepted.
    """
    faults: list[str] = []
    checked = _check_section(settings, "", COMMANDS[command], faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def check_section(path: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """One section, such as ``model``, with every value of its declared type.

    Raises:
        ValueError: as ``check`` does.
    """
    faults: list[str] = []
    inner = {key[len(path) + 1 :]: dict for key in SECTIONS if key.startswith(f"{path}.")}
    checked = _check_section(section, path, inner, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return checked


def _check_section(section: Any, path: str, extra: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """One section and those inside it; what is wrong is appended to ``faults``."""
    if not isinstance(section, Mapping):
        faults.append(
            f"{path}={section}: this is a group; choose a file of it with {path.replace('.', '/')}={section}"
        )
        return {}
    try:
        accepted = _accepted(path, section, extra)
    except ValueError as error:
        faults.append(f"{path}.name={section.get('name')}: {error}")
        return {}
    return _check_keys(section, path, accepted, extra, faults)


def _check_keys(
    section: Any, path: str, accepted: Mapping[str, Any], extra: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    """The keys of a section, which are to be among those accepted."""
    checked = {}
    for key, value in section.items():
        full = f"{path}.{key}".lstrip(".")
        if key not in accepted:
            faults.append(f"{full}={value}: there is no such setting; {_suggest(path, key, accepted)}")
        elif accepted[key] is dict or (accepted[key] == dict | None and value is not None):
            inner = {k[len(key) + 1 :]: v for k, v in extra.items() if k.startswith(key + ".")}
            checked[key] = _check_section(value, full, inner, faults)
        elif typing.get_origin(accepted[key]) is dict:
            checked[key] = _check_parts(value, full, SECTIONS[path], faults)
        else:
            try:
                checked[key] = _coerce(value, accepted[key])
            except ValueError:
                faults.append(f"{full}={value}: must be {describe(accepted[key])}")
    return checked


def _check_parts(parts: Any, path: str, package: str, faults: list[str]) -> dict[str, Any]:
    """The components of a sum by their names, each with a weight; null leaves one out."""
    checked = {}
    for name, part in parts.items() if isinstance(parts, Mapping) else [("NAME", parts)]:
        full = f"{path}.{name}"
        try:
            file = components.source(package, name).relative_to(components.ROOT)
        except ValueError as error:
            faults.append(f"{full}={part}: {error}")
            continue
        accepted = {"weight": NonNegativeFloat} | keywords(f"{file}:build")
        accepted.pop("aux_weight", None)  # the sum's own
        if isinstance(part, Mapping):
            checked[name] = _check_keys(part, full, accepted, {}, faults)
        elif part is not None:
            faults.append(f"{full}={part}: this is a group; say {full}.weight={part}")
    return checked


def _accepted(path: str, section: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    where = SECTIONS.get(path)
    accepted = {key.split(".")[0]: dict if "." in key else kind for key, kind in extra.items()}
    if where is None:
        return accepted
    if ":" not in where:  # a package: the component's name says which file
        accepted["name"] = str
        where = f"{components.source(where, section.get('name')).relative_to(components.ROOT)}:build"
    return accepted | keywords(where)


def _suggest(path: str, key: str, accepted: Iterable[str]) -> str:
    names = sorted(accepted)
    close = difflib.get_close_matches(key, names, n=1)
    hint = (
        f"did you mean {path}.{close[0]}? "
        if close and path
        else f"did you mean {close[0]}? "
        if close
        else ""
    )
    return f"{hint}{path or 'the top level'} accepts: {', '.join(names)}"


def _coerce(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it; an int where a float is meant becomes one.

    Raises:
        ValueError: the value does not fit.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        value = _coerce(value, arguments[0])
        if all(limit.holds(value) for limit in arguments[1:]):
            return value
    elif origin is Literal:
        if any(value == word and type(value) is type(word) for word in arguments):
            return value
    elif origin in (typing.Union, python_types.UnionType):
        return _first_fit(value, arguments)
    elif origin in (list, tuple):
        return _coerce_items(value, origin, arguments)
    elif annotation is float and type(value) is int:
        return float(value)
    elif annotation in (None, type(None)) and value is None:
        return None
    elif isinstance(annotation, type) and type(value) is annotation:
        return value
    raise ValueError(value)


def _first_fit(value: Any, annotations: Iterable[Any]) -> Any:
    for annotation in annotations:
        try:
            return _coerce(value, annotation)
        except ValueError:
            continue
    raise ValueError(value)


def _coerce_items(value: Any, origin: type, arguments: tuple[Any, ...]) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    variadic = origin is list or arguments[-1] is Ellipsis
    kinds = (arguments[0],) * len(value) if variadic else arguments
    if len(kinds) != len(value):
        raise ValueError(value)
    return [_coerce(item, kind) for item, kind in zip(value, kinds, strict=True)]


def describe(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return f"{describe(arguments[0])} {' and '.join(str(limit) for limit in arguments[1:])}"
    if origin is Literal:
        return f"one of {', '.join(str(word) for word in arguments)}"
    if origin in (typing.Union, python_types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list of {describe(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(describe(argument) for argument in arguments)}]"
    plain = {str: "text", int: "an integer", float: "a number", bool: "true or false", dict: "a group"}
    return plain.get(annotation, "null")
