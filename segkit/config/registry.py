"""Components are modules in folders: ``build("losses", {"name": "cross_entropy", ...}, num_classes=19)``.

A component is a module with a function ``build``, in segkit or in a plug-in. The program supplies the
positional parameters of ``build``; its keyword-only parameters are the settings.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_plugins: dict[str, Path] = {}  # folders of the packages that plugins= names


def use_plugins(names: Iterable[str]) -> None:
    """Make the components of packages available, installed or in the current folder; imports nothing."""
    _plugins.update({name: _find_package(name) for name in names})


def check_plugins_are_named(names: Iterable[str], file: object) -> None:
    """Raise a ValueError if the user did not name a plug-in: no code runs because a file names it."""
    missing = [name for name in names if name not in _find_packages()]
    if missing:
        raise ValueError(
            f"{file} needs plug-ins, which run only if you name them: plugins=[{','.join(missing)}]"
        )


def _find_package(name: str) -> Path:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that nothing here hides an installed package
    spec = None
    with contextlib.suppress(ImportError, ValueError):  # a parent that fails to import; an impossible name
        spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"plugins=[{name}]: there is no package of this name, installed or in {Path.cwd()}")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _find_installed() -> dict[str, Path]:
    """Return the folders of installed packages that declare the entry point."""
    found = importlib.metadata.entry_points(group="segkit.components")
    return {entry.value: _find_package(entry.value) for entry in found}


def _find_packages() -> dict[str, Path]:
    """Return segkit and every plug-in, each with its folder."""
    return {"segkit": ROOT} | _plugins | _find_installed()


def _find_files(package: str) -> list[tuple[str, Path]]:
    """Return the components of a package, each with its dotted name and its file."""
    return [
        (f"{root}.{package}.{file.stem}", file)
        for root, folder in _find_packages().items()
        for file in folder.joinpath(*package.split(".")).glob("[!_]*.py")
    ]


def available(package: str) -> list[str]:
    """Return the sorted names of the components of a package such as ``"models.backbones"``."""
    return sorted({file.stem for _, file in _find_files(package)})


def find_component(package: str, name: object) -> tuple[str, Path]:
    """Return module and source file of the one component of a name in a package, or raise a ValueError."""
    found = [(module, file) for module, file in _find_files(package) if file.stem == name]
    if not found:
        folder = f"segkit/{package.replace('.', '/')}"
        raise ValueError(f"no {name!r} in {folder}; there are: {', '.join(available(package))}")
    if len(found) > 1:
        raise ValueError(f"{name!r} is in {' and '.join(module for module, _ in found)}; rename one of them")
    return found[0]


def build(package: str, settings: Mapping[str, Any], **supplied: Any) -> Any:
    """Build the component that ``settings["name"]`` names.

    Args:
        package: dotted folder below ``segkit`` and each plug-in, such as ``"models.heads"``.
        settings: ``name`` and the component's keyword arguments.
        supplied: values for the positional parameters; those that ``build`` lacks are left out.

    Raises:
        ValueError: no component has that name, or it needs a value that is not supplied.
    """
    arguments = dict(settings)
    module, file = find_component(package, arguments.pop("name", None))
    builder = importlib.import_module(module).build
    wanted = [p for p in inspect.signature(builder).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [p.name for p in wanted if p.default is p.empty and p.name not in supplied]:
        raise ValueError(f"{file}: build needs {', '.join(missing)}; write settings after a *")
    return builder(**{p.name: supplied[p.name] for p in wanted if p.name in supplied}, **arguments)


def build_enabled(package: str, listed: Mapping[str, Any], **supplied: Any) -> dict[str, Any]:
    """Build the components that settings list by name: true takes the defaults, null and false omit one."""
    enabled = {name: value for name, value in listed.items() if value not in (None, False)}
    return {
        name: build(package, {**({} if value is True else value), "name": name}, **supplied)
        for name, value in enabled.items()
    }
