"""Entry points of the installed commands, and how a command is called.

In a checkout the commands are its scripts (``python train_seg.py``); an installed segkit has copies of them
in ``segkit/commands``, and ``segkit-train`` and its like on the path.
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
    """Return how to call a command: ``python train_seg.py``, or ``segkit-train`` if that is installed.

    Args:
        command: ``train``, ``test``, ``predict``, ``export`` or ``data``.
        dataset: name of the data set, for ``data``.
        python: how to call the interpreter.
    """
    data = command == "data"
    if INSTALLED or is_installed_script(sys.argv[0]):
        if data:
            return f"segkit-{command} {dataset}"
        return f"segkit-{command}"
    if data:
        return f"{python} datasets/{dataset}.py"
    return f"{python} {command}_seg.py"


def is_installed_script(file: str) -> bool:
    """Return whether a program is one of the installed commands."""
    return Path(file).name.startswith("segkit-")


def train() -> None:
    """Run ``segkit-train``."""
    _import_script("train_seg").main()


def test() -> None:
    """Run ``segkit-test``."""
    _import_script("test_seg").main()


def predict() -> None:
    """Run ``segkit-predict``."""
    _import_script("predict_seg").main()


def export() -> None:
    """Run ``segkit-export``."""
    _import_script("export_seg").main()


def data() -> None:
    """Run ``segkit-data NAME COMMAND``, the script of a data set; the two words may come in any order."""
    folder = SCRIPTS / "datasets"
    names = sorted(file.stem for file in folder.glob("*.py") if file.stem != "command")
    words = sys.argv[1:]
    name = next((word for word in words[:2] if word in names), None)
    if name is None:
        _print_usage(words, names)
    words.remove(name)
    sys.argv[1:] = words
    sys.path.insert(0, str(folder))
    importlib.import_module(name).script.run()


def _import_script(name: str) -> Any:
    sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(name)


def _print_usage(words: list[str], names: list[str]) -> NoReturn:
    is_help = not words or words[0] in ("-h", "--help")
    if not is_help:
        sys.stderr.write(f"error: {' '.join(words[:2])}: there is no such data set\n")
    (sys.stdout if is_help else sys.stderr).write(HELP.format(", ".join(names)))
    raise SystemExit(0 if is_help else 2)
