"""The folder listing is the registry: ``build("losses", {"name": "cross_entropy", ...}, num_classes=19)``.

A component is one module with a function ``build``. Its positional parameters are late values: those of what
the program knows (``num_classes``, ``in_channels``, ...) that it needs, handed over by name. Its keyword-only
parameters are what the settings may say. Components lie in segkit and, in folders of the same names, in the
packages that are named as plug-ins or whose installation declares the entry point ``segkit.config.registry``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = "segkit.components"
_plugins: dict[str, Path] = {}  # package and its folder, as they were named


def use_plugins(names: Iterable[str]) -> None:
    """Let the components of further packages be found; nothing is imported before one of them is built.

    Args:
        names: of packages, installed or in the current folder.

    Raises:
        ValueError: there is no such package.
    """
    for name in names:
        if name not in _plugins:
            _plugins[name] = _folder_of(name)


def plugins() -> list[str]:
    """The packages whose components can be found, beside segkit's own."""
    return [*_plugins, *(name for name in _declared() if name not in _plugins)]


def check_plugins_are_named(names: Iterable[str], file: object) -> None:
    """See that the plug-ins of a file are named by the user: no code runs because a file asks for it.

    Raises:
        ValueError: one is not.
    """
    if missing := [name for name in names if name not in plugins()]:
        raise ValueError(
            f"{file} was made with components of {', '.join(missing)}: their code runs only if you name them,"
            f" plugins=[{','.join(missing)}] (segkit.load(..., plugins={missing}) in Python)"
        )


def _folder_of(name: str) -> Path:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # after all else, so that nothing here hides an installed package
    spec = None
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) and name.split(".")[0] != "segkit":
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:  # of what a dotted name lies in
            spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"plugins=[{name}]: there is no package of this name, installed or in {Path.cwd()};"
            " it is a folder with folders such as losses/ or models/backbones/ in it"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _declared() -> dict[str, Path]:
    """Installed packages that say of themselves that they hold components."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {entry.value: _folder_of(entry.value) for entry in found}


def _roots(*, declared: bool) -> dict[str, Path]:
    """Packages that hold components, and their folders: segkit, the plug-ins, and those that declare it."""
    return {"segkit": ROOT} | _plugins | (_declared() if declared else {})


def _places(package: str, *, declared: bool) -> list[tuple[str, Path]]:
    """Dotted name and folder of a package of components, in segkit and in every plug-in."""
    roots = _roots(declared=declared).items()
    return [(f"{root}.{package}", folder.joinpath(*package.split("."))) for root, folder in roots]


def _listed(folder: Path) -> list[str]:
    return [file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")]


def available(package: str) -> list[str]:
    """Names of the components of a package such as ``"models.backbones"``, plug-ins' included, sorted."""
    return sorted({name for _, folder in _places(package, declared=True) for name in _listed(folder)})


def _found(package: str, name: object) -> tuple[str, Path]:
    """Dotted name and file of one component."""
    for declared in (False, True):  # asking all that is installed takes a while
        places = [place for place in _places(package, declared=declared) if name in _listed(place[1])]
        if len(places) > 1:
            both = " and ".join(place for place, _ in places)
            raise ValueError(f"{name!r} stands in {both}; one of them needs another name")
        if places:
            return f"{places[0][0]}.{name}", places[0][1] / f"{name}.py"
    where = " or ".join(f"{root}/{package.replace('.', '/')}" for root in ("segkit", *plugins()))
    raise ValueError(f"no {name!r} in {where}; there are: {', '.join(available(package))}")


def component_file(package: str, name: object) -> Path:
    """The file of one component.

    Raises:
        ValueError: there is no such component, or there are two; the message lists those there are.
    """
    return _found(package, name)[1]


def component_path(module: str) -> Path:
    """The file of a module of segkit or of a plug-in, by its dotted name.

    Raises:
        ValueError: it is of neither.
    """
    for root, folder in _roots(declared=True).items():
        if module.startswith(f"{root}."):
            place = folder.joinpath(*module.removeprefix(f"{root}.").split("."))
            return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    raise ValueError(f"{module} is a module neither of segkit nor of a plug-in")


def build(package: str, settings: Mapping[str, Any], **late: Any) -> Any:
    """Build the component that ``settings["name"]`` names.

    Args:
        package: dotted folder below ``segkit`` and below each plug-in, such as ``"models.heads"``.
        settings: ``name`` and the component's keyword arguments.
        late: what only the program knows; the component gets those that its ``build`` asks for by name.

    Raises:
        ValueError: no component has that name, or it asks for what is not supplied.
    """
    arguments = dict(settings)
    module, _ = _found(package, arguments.pop("name", None))
    builder = importlib.import_module(module).build
    return builder(**_asked_for(builder, late, module.removeprefix("segkit.")), **arguments)


def build_enabled(package: str, listed: Mapping[str, Any], **late: Any) -> dict[str, Any]:
    """Components that settings list by name: true takes its defaults, null and false leave one out.

    Args:
        package: as of ``build``.
        listed: settings by name.
        late: as of ``build``.

    Raises:
        ValueError: as ``build`` does.
    """
    chosen = {name: {} if how is True else how for name, how in listed.items() if how not in (None, False)}
    return {name: build(package, {**how, "name": name}, **late) for name, how in chosen.items()}


def _asked_for(builder: Callable[..., Any], late: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The late values that are positional parameters of a builder."""
    asked = [p for p in inspect.signature(builder).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [p.name for p in asked if p.name not in late and p.default is p.empty]:
        raise ValueError(
            f"{name}: its build asks for {', '.join(missing)}, and the program supplies"
            f" {', '.join(late) or 'nothing'} here; what the settings are to say comes after a *"
        )
    return {p.name: late[p.name] for p in asked if p.name in late}
