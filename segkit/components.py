"""The folder listing is the registry: ``build("losses", {"name": "cross_entropy", ...}, num_classes=19)``.

A component is one module with a function ``build``. Its positional parameters are late values: those of what
the program knows (``num_classes``, ``in_channels``, ...) that it needs, handed over by name. Its keyword-only
parameters are what the settings may say.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


def available(package: str) -> list[str]:
    """Names of the components of a package such as ``"models.backbones"``, sorted."""
    folder = ROOT.joinpath(*package.split("."))
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def source(package: str, name: object) -> Path:
    """The file of one component.

    Raises:
        ValueError: there is no such component; the message lists those there are.
    """
    names = available(package)
    if name not in names:
        raise ValueError(f"no {name!r} in segkit/{package.replace('.', '/')}; there are: {', '.join(names)}")
    return ROOT.joinpath(*package.split("."), f"{name}.py")


def build(package: str, settings: Mapping[str, Any], **late: Any) -> Any:
    """Build the component that ``settings["name"]`` names.

    Args:
        package: dotted folder below ``segkit``, such as ``"models.heads"``.
        settings: ``name`` and the component's keyword arguments.
        late: what only the program knows; the component gets those that its ``build`` asks for by name.

    Raises:
        ValueError: no component has that name, or it asks for what is not supplied.
    """
    arguments = dict(settings)
    name = source(package, arguments.pop("name", None)).stem
    builder = importlib.import_module(f"segkit.{package}.{name}").build
    return builder(**_asked_for(builder, late, f"{package}.{name}"), **arguments)


def _asked_for(builder: Callable[..., Any], late: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The late values that are positional parameters of a builder."""
    asked = [p for p in inspect.signature(builder).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [p.name for p in asked if p.name not in late and p.default is p.empty]:
        raise ValueError(
            f"{name}: its build asks for {', '.join(missing)}, and the program supplies"
            f" {', '.join(late) or 'nothing'} here; what the settings are to say comes after a *"
        )
    return {p.name: late[p.name] for p in asked if p.name in late}
