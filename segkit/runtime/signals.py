"""Leaving when asked: the first SIGTERM or SIGINT is remembered, for the loop to stop at a whole iteration.

A second one leaves at once, with nothing saved and nothing half-written under a whole file's name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from segkit.runtime.commands import is_installed_script

LOG = logging.getLogger("segkit")
ASKING = (signal.SIGTERM, signal.SIGINT)
ONE = 2.0  # seconds within which signals count as one: torchrun passes on what its group has got already
GRACE = 60  # seconds that a worker outlives a SIGTERM


@dataclass
class StopRequest:
    """Which signal asked this process to leave; 0 for none yet."""

    signal: int = 0


@contextlib.contextmanager
def defer_signals(request: StopRequest) -> Iterator[None]:
    """Remember signals instead of dying of them; only the main thread can.

    Args:
        request: told which signal came.
    """
    first = 0.0

    def hear(number: int, _: object) -> None:
        nonlocal first
        now = time.monotonic()
        if request.signal:
            if now - first > ONE:
                os._exit(128 + number)
            return
        request.signal, first = number, now
        sys.stderr.write(
            f"\n{signal.Signals(number).name}: waiting for the current training step or validation image,"
            " then saving and leaving. A second signal leaves at once, without saving.\n"
        )

    before = {number: signal.signal(number, hear) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_group_signals(_: int = 0) -> None:
    """Keep a loader's worker alive while its parent finishes an iteration and saves.

    Ctrl-C, torchrun and cluster managers signal whole groups of processes, and a worker that dies takes its
    batches along. SIGTERM counts after ``GRACE`` seconds; PyTorch ends a worker whose parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where SIGTERM cannot be handled
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def python_command() -> str:
    """How to call this Python from here: by its path below the current folder, or by its name."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def command_to_resume(argv: Sequence[str]) -> str:
    """This process's command line, with ``resume=true``."""
    arguments = [a.removeprefix("++") for a in argv[1:]]
    kept = [a for a in arguments if not a.startswith("resume=")]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    installed = is_installed_script(argv[0])
    start = "torchrun ... " if several else "" if installed else f"{python_command()} "
    script = Path(argv[0]).name if installed else argv[0]
    return f"{start}{shlex.join([script, *kept, 'resume=true'])}"


def exit_after_signal(number: int) -> NoReturn:
    """End as a signal asked, after all was saved.

    Raises:
        SystemExit: with 128 and the signal's number, as a shell counts.
    """
    LOG.info("left on %s; to go on: %s", signal.Signals(number).name, command_to_resume(sys.argv))
    raise SystemExit(128 + number)
