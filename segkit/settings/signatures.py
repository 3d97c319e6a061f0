"""Signatures read from the source text: which settings a component takes, without importing it."""

from __future__ import annotations

import ast
import typing
from functools import cache
from typing import Any, NamedTuple

from segkit import components
from segkit.settings import values


class Keys(NamedTuple):
    """The keys of a section: what each takes, and those that must be there."""

    accepted: dict[str, Any]
    required: tuple[str, ...]


class _Names(dict[str, Any]):
    """The names that an annotation of a module may use: those of ``values``, and aliases it shares."""

    def __init__(self, tree: ast.Module) -> None:
        super().__init__({**vars(typing), **vars(values)})
        self.tree = tree

    def __missing__(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return eval(ast.unparse(node.value), {}, self)
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return _names(f"{(node.module or '').removeprefix('segkit.').replace('.', '/')}.py")[name]
        raise KeyError(name)


@cache
def _names(file: str) -> _Names:
    return _Names(ast.parse((components.ROOT / file).read_text(encoding="utf-8")))


@cache
def keywords(where: str) -> Keys:
    """Keyword-only parameters of a function, or the fields of a class, with their annotations.

    Args:
        where: ``"models/segmenter.py:build"``, a file below ``segkit/`` and a name in it.
    """
    file, name = where.split(":")
    names = _names(file)
    node = next(
        n for n in names.tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name
    )
    if isinstance(node, ast.ClassDef):
        fields = [(n.target, n.annotation, n.value) for n in node.body if isinstance(n, ast.AnnAssign)]
        found = [(ast.unparse(target), annotation, default) for target, annotation, default in fields]
    else:
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        found = [(a.arg, a.annotation, default) for a, default in pairs if a.annotation is not None]
    accepted = {key: eval(ast.unparse(annotation), {}, names) for key, annotation, _ in found}
    return Keys(accepted, tuple(key for key, _, default in found if default is None))
