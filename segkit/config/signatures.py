"""Signatures read from the source text: which settings a component takes, without importing it."""

from __future__ import annotations

import ast
import typing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from segkit.config import registry, values

REMEDY = "settings are annotated with Python's types, typing, segkit.config, or an alias of one's own module"


class Keys(NamedTuple):
    """The keys of a section: what each takes, and those that must be there."""

    accepted: dict[str, Any]
    required: tuple[str, ...]


class _Names(dict[str, Any]):
    """The names that an annotation of a module may use: those of ``values``, and aliases it shares."""

    def __init__(self, file: Path) -> None:
        super().__init__({**vars(typing), **vars(values)})
        self.file, self.tree = file, ast.parse(file.read_text(encoding="utf-8"))

    def __missing__(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return eval(ast.unparse(node.value), {}, self)
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return _names(registry.component_path(node.module or ""))[name]
        raise KeyError(name)  # one of Python's own, or unknown


@cache
def _names(file: Path) -> _Names:
    return _Names(file)


@cache
def read_keywords(where: str) -> Keys:
    """Keyword-only parameters of a function, or the fields of a class, with their annotations.

    Args:
        where: ``"models/segmenter.py:build"``, a file (below ``segkit/`` where it is relative) and a name in
            it.

    Raises:
        ValueError: the file has no function of that name, or an annotation cannot be read.
    """
    file, _, name = where.rpartition(":")
    names = _names(registry.ROOT / file)
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
        raise ValueError(f"{names.file}: {error} where the annotation is read; {REMEDY}") from error
    return Keys(accepted, tuple(key for key, _, default in declared if default is None))
