"""How commands are called and run.

In a checkout the commands are its scripts (``python train_seg.py``); an installed segkit has copies of them
in ``segkit/commands``, and ``segkit-train`` and its like on the path.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NoReturn

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


def run(command: str) -> None:
    """Run a command with the words of ``sys.argv``, from its script."""
    if command == "data":
        _run_dataset_script()
        return
    sys.path.insert(0, str(SCRIPTS))
    importlib.import_module(f"{command}_seg").main()


def _run_dataset_script() -> None:
    """Run ``segkit-data NAME COMMAND``; the two words may come in any order."""
    folder = SCRIPTS / "datasets"
    names = sorted(file.stem for file in folder.glob("*.py") if file.stem != "command")
    words = sys.argv[1:]
    name = next((word for word in words[:2] if word in names), None)
    if name is None:
        print_usage(HELP.format(", ".join(names)), words[:2], "data set")
    words.remove(name)
    sys.argv[1:] = words
    sys.path.insert(0, str(folder))
    importlib.import_module(name).script.run()


def print_usage(text: str, words: list[str], kind: str) -> NoReturn:
    """Print a help text and exit; with status 2 if ``words`` name no command or data set."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(text)
        raise SystemExit(0)
    sys.stderr.write(f"error: {' '.join(words)}: there is no such {kind}\n{text}")
    raise SystemExit(2)
