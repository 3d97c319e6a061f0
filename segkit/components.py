"""The folder listing is the registry: ``build("losses", {"name": "cross_entropy", ...})``.

A component is one module with a function ``build``. Its positional parameters are supplied by the program
(``num_classes``, ``in_channels``, ...); its keyword-only parameters are what the settings may say.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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


def build(package: str, settings: Mapping[str, Any], *late: Any) -> Any:
    """Call ``build(*late, **settings)`` of the component that ``settings["name"]`` names.

    Args:
        package: dotted folder below ``segkit``, such as ``"models.heads"``.
        settings: ``name`` and the component's keyword arguments.
        late: what only the program knows, in the order of the component's positional parameters.

    Raises:
        ValueError: no component has that name.
    """
    arguments = dict(settings)
    name = source(package, arguments.pop("name", None)).stem
    return importlib.import_module(f"segkit.{package}.{name}").build(*late, **arguments)
