"""Import layers, import cycles and package files."""

import ast
import graphlib
import re
import tomllib

import pytest

from conftest import ROOT

PACKAGE = ROOT / "segkit"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
INITS = sorted(PACKAGE.rglob("__init__.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def dotted_name(path):
    """Return ``segkit/data/label_map.py`` as ``segkit.data.label_map``, an ``__init__`` as its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, known):
    """Return the modules of segkit that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & known) or {node.module}
    return found & known


def test_every_module_has_an_import_layer():
    (contract,) = SETTINGS["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contract["layers"] for name in re.split("[|:]", layer)}
    missing = [
        name
        for name in map(dotted_name, MODULES)
        if not any(name == layer or name.startswith(f"{layer}.") for layer in layers)
    ]
    assert not missing


@pytest.mark.medium
def test_no_import_cycles_even_for_types():
    known = {dotted_name(path) for path in [*MODULES, *INITS]}
    graph = {dotted_name(path): imports(path, known) for path in [*MODULES, *INITS]}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("init", INITS, ids=dotted_name)
def test_package_init_files_contain_no_code(init):
    text = init.read_text(encoding="utf-8")
    allowed = (ast.ImportFrom, ast.Import, ast.Assign, ast.Expr)
    late = (ast.FunctionDef,) if init.parent == PACKAGE else ()  # the public names, imported when asked for
    assert all(isinstance(node, (*allowed, *late)) for node in ast.parse(text).body)
