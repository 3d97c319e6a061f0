"""The commands: where their files lie, and how a person calls them here.

In a checkout they are the scripts at its top (``python train_seg.py``); an installed segkit holds copies of
them in ``segkit/commands`` and has ``segkit-train`` and its like on the path.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NoReturn

from segkit.config import CONF

PACKAGE = Path(__file__).parents[1]
INSTALLED = CONF.parent == PACKAGE
SCRIPTS = PACKAGE / "commands" if INSTALLED else PACKAGE.parent
HELP = """\
segkit-data NAME prepare|verify|stats|show [--root DIR] ...
    download, check, measure and view a data set; NAME is one of: {}
segkit-data folder import|classes [--root DIR] ...
    for your own images: import the labels of other tools, propose classes.csv from masks
segkit-data NAME --help
    license, source, layout and options of one
"""


def cli_command(command: str, dataset: str = "NAME", *, python: str = "python") -> str:
    """How to call a command: ``python train_seg.py``, or ``segkit-train`` where that is installed.

    Args:
        command: ``train``, ``test``, ``predict``, ``export`` or ``data``.
        dataset: the one whose script is meant, for ``data``.
        python: how to call the interpreter.
    """
    data = command == "data"
    if INSTALLED or is_installed_script(sys.argv[0]):
        return f"segkit-{command} {dataset}" if data else f"segkit-{command}"
    return f"{python} datasets/{dataset}.py" if data else f"{python} {command}_seg.py"


def is_installed_script(file: str) -> bool:
    """Whether a program is one of those that an installation puts on the path."""
    return Path(file).name.startswith("segkit-")


def train() -> None:
    """``segkit-train``."""
    _script("train_seg").main()


def test() -> None:
    """``segkit-test``."""
    _script("test_seg").main()


def predict() -> None:
    """``segkit-predict``."""
    _script("predict_seg").main()


def export() -> None:
    """``segkit-export``."""
    _script("export_seg").main()


def data() -> None:
    """``segkit-data NAME COMMAND``: the script of a data set; which of the two words comes first is free."""
    folder = SCRIPTS / "datasets"
    names = sorted(file.stem for file in folder.glob("*.py") if file.stem != "command")
    words = sys.argv[1:]
    found = next((word for word in words[:2] if word in names), None)
    if found is None:
        _explain(words, names)
    words.remove(found)
    sys.argv[1:] = words
    sys.path.insert(0, str(folder))
    importlib.import_module(found).script.run()


def _script(name: str) -> Any:
    sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(name)


def _explain(words: list[str], names: list[str]) -> NoReturn:
    asked = not words or words[0] in ("-h", "--help")
    if not asked:
        sys.stderr.write(f"error: {' '.join(words[:2])}: there is no such data set\n")
    (sys.stdout if asked else sys.stderr).write(HELP.format(", ".join(names)))
    raise SystemExit(0 if asked else 2)
