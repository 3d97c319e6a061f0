"""``python -m segkit``, ``segkit``, ``segkit-train`` and so on: list the commands, or run one of them."""

from __future__ import annotations

import sys
from pathlib import Path

from segkit.runtime import commands

NAMES = ("train", "test", "predict", "export", "data")
HELP = """\
segkit: semantic segmentation. The commands, each with --help:

  {train}      train a network
  {test}       score a trained network
  {predict}    predict masks for images, folders and videos
  {export}     export a network to ONNX, OpenVINO or torch.export
  {data}   fetch, check and look at a data set

`segkit train ...`, `python -m segkit train ...` and so on run the same. Start with: {train} experiment=demo
"""


def main() -> None:
    """Run the command of the program's name, or that of the first word; print the commands without one."""
    program, words = Path(sys.argv[0]).stem, sys.argv[1:]
    if commands.is_installed_script(program):
        commands.run(program.removeprefix("segkit-"))
    elif words and words[0] in NAMES:
        sys.argv[1:] = words[1:]
        commands.run(words[0])
    else:
        calls = {name: commands.cli_command(name) for name in NAMES}
        commands.print_usage(HELP.format(**calls), words[:1], "command")


if __name__ == "__main__":
    main()
