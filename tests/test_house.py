"""Import layers, import cycles, package files and names."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "segkit"
MODULES = sorted(path for path in HOUSE.rglob("*.py") if path.name != "__init__.py")
FACES = sorted(HOUSE.rglob("__init__.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def dotted(path):
    """``segkit/data/label_map.py`` as ``segkit.data.label_map``; a face as its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entries():
    others = ("__init__", "__pycache__", "py.typed")
    return sorted(path.name for path in HOUSE.iterdir() if not path.name.startswith(others))


def imports(path, known):
    """Modules of segkit that a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & known) or {node.module}
    return found & known


def circles(graph):
    """Sets of modules each of which reaches the others (by plain reachability: the graph is small)."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for module in graph[waiting.pop()]:
                if module not in seen:
                    seen.add(module)
                    waiting.append(module)
        return seen

    everything = {module: reached(module) for module in graph}
    return sorted(module for module, others in everything.items() if module in others)


def test_every_module_stands_in_a_layer():
    (contract,) = SETTINGS["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    homeless = [
        name
        for name in map(dotted, MODULES)
        if not any(name == layer or name.startswith(f"{layer}.") for layer in layers)
    ]
    assert not homeless
    assert {f"segkit.{entry.removesuffix('.py')}" for entry in entries()} == layers


@pytest.mark.medium
def test_no_modules_import_one_another_in_a_circle_even_for_types():
    known = {dotted(path) for path in [*MODULES, *FACES]}
    graph = {dotted(path): imports(path, known) for path in [*MODULES, *FACES]}
    assert not circles(graph)


def test_circles_are_seen_where_there_are_some():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


@pytest.mark.parametrize("face", FACES, ids=dotted)
def test_package_init_files_contain_no_code(face):
    text = face.read_text(encoding="utf-8")
    allowed = (ast.ImportFrom, ast.Import, ast.Assign, ast.Expr)
    late = (ast.FunctionDef,) if face.parent == HOUSE else ()  # the public names, imported when asked for
    assert all(isinstance(node, (*allowed, *late)) for node in ast.parse(text).body)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_function_or_class_bears_its_modules_name(path):
    names = [n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(n, "name")]
    assert path.stem not in names
