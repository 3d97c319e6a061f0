"""``python -m segkit`` and ``segkit``: list the commands, or run one of them."""

from __future__ import annotations

import sys

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
    """Run the command that the first word names; print the commands without one."""
    words = sys.argv[1:]
    if words and words[0] in NAMES:
        sys.argv[:] = [sys.argv[0], *words[1:]]
        getattr(commands, words[0])()
        return
    is_help = not words or words[0] in ("-h", "--help")
    if not is_help:
        sys.stderr.write(f"error: {words[0]}: there is no such command\n")
    (sys.stdout if is_help else sys.stderr).write(
        HELP.format(**{name: commands.cli_command(name) for name in NAMES})
    )
    raise SystemExit(0 if is_help else 2)


if __name__ == "__main__":
    main()
