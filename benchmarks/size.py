"""Lines of code of the core and of the tools around it: ``python benchmarks/size.py``.

A line of code holds more than a comment, a blank or a docstring. The core is what decides what a
network learns and how it scores: an afternoon's reading.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "segkit"
TOOLS = (  # everything else is core
    "data/verification.py",
    "data/statistics.py",
    "data/datasets/shapes.py",
    "data/annotations.py",
    "data/importing.py",
    "data/painting.py",
    "data/polygons.py",
    "data/proposals.py",
    "data/via.py",
    "models/summary.py",
    "evaluation/report.py",
    "evaluation/gallery.py",
    "evaluation/results.py",
    "evaluation/submissions.py",
    "inference/export/",
    "inference/outputs.py",
    "inference/predict_files.py",
    "inference/share.py",
    "inference/sources.py",
    "inference/video.py",
    "monitor/compare.py",
    "monitor/repeated.py",
    "testing.py",
    "training/lr_finder.py",
    "drawing/",
    "system/",
)


def code_lines(text: str) -> int:
    """Lines of Python without blanks, comments and docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            string = node.body[0]
            prose |= set(range(string.lineno, (string.end_lineno or string.lineno) + 1))
    silent = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def is_tool(path: Path) -> bool:
    """Whether a module stands outside the core."""
    below = path.relative_to(ROOT).as_posix()
    return any(below == tool or (tool.endswith("/") and below.startswith(tool)) for tool in TOOLS)


def sizes() -> dict[str, Counter[str]]:
    """Lines of code of ``core`` and ``tools``, by room."""
    found: dict[str, Counter[str]] = {"core": Counter(), "tools": Counter()}
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        found["tools" if is_tool(path) else "core"][room] += code_lines(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    for kind, rooms in sizes().items():
        print(
            f"{kind:6} {sum(rooms.values()):5}   "
            + "  ".join(f"{room} {n}" for room, n in rooms.most_common())
        )
