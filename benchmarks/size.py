"""Lines of code, room by room: ``python benchmarks/size.py``.

A line of code holds more than a comment, a blank or a docstring. The core is what decides what a network
learns, how it scores and what it predicts; a component (a backbone, a loss, a data set ...) is read alone, by
whoever uses it; tools stand around both. docs/decisions/0009-size.md has what follows from it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "segkit"
COMPONENTS = (  # folders whose listing is the registry: one file a component, none needs another
    "data/augmentations/",
    "data/datasets/",
    "evaluation/evaluators/",
    "losses/",
    "models/backbones/",
    "models/heads/",
    "models/layers/",  # what blocks are made of
    "monitor/writers/",
    "training/optimisers/",
    "training/policies/",
)
TOOLS = (  # what a training, a test and a prediction can do without; everything else is core
    "data/band_statistics.py",  # with statistics.py
    "data/importing/",  # files of other label tools
    "data/statistics.py",
    "data/verification.py",
    "drawing/",
    "evaluation/gallery.py",
    "evaluation/report.py",
    "evaluation/results.py",
    "evaluation/submissions.py",
    "inference/export/",
    "inference/share.py",
    "inference/video.py",
    "models/counting.py",  # for summary.py
    "models/mmsegmentation.py",  # weights of other projects
    "models/peers.py",  # likewise
    "models/summary.py",
    "monitor/compare.py",
    "monitor/profiling.py",
    "monitor/repeated.py",
    "share.py",
    "system/",
    "testing.py",
    "training/lr_finder.py",
    "training/parts.py",  # for loops of one's own
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


def kind_of(path: Path) -> str:
    """``core``, ``components`` or ``tools``; shapes, which are drawn for demonstrations, are a tool."""
    below = path.relative_to(ROOT).as_posix()
    if below.startswith(TOOLS) or below == "data/datasets/shapes.py":
        return "tools"
    return "components" if below.startswith(COMPONENTS) else "core"


def sizes() -> dict[str, Counter[str]]:
    """Lines of code of each kind, by room."""
    found: dict[str, Counter[str]] = {"core": Counter(), "components": Counter(), "tools": Counter()}
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        found[kind_of(path)][room] += code_lines(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    for kind, rooms in sizes().items():
        each = "  ".join(f"{room} {lines}" for room, lines in rooms.most_common() if lines)
        print(f"{kind:10} {sum(rooms.values()):5}   {each}")
