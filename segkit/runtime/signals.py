"""Stop on SIGTERM or SIGINT: the first signal lets the current step finish and saves, a second one exits."""

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
SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEAT_SECONDS = 2.0  # later signals count as a second one; torchrun repeats a signal its group has received
WORKER_SECONDS = 60  # a worker outlives a SIGTERM by


@dataclass
class StopRequest:
    """The first signal that asked this process to stop, 0 for none, and when it came."""

    signal: int = 0
    time: float = 0.0

    def handle(self, number: int, _: object) -> None:
        """Note the first signal; exit at a second one."""
        if not self.signal:
            self.signal, self.time = number, time.monotonic()
            sys.stderr.write(
                f"\n{signal.Signals(number).name}: finishing the current training step or validation image,"
                " then saving and exiting. A second signal exits at once, without saving.\n"
            )
        elif time.monotonic() - self.time > REPEAT_SECONDS:
            os._exit(128 + number)


@contextlib.contextmanager
def defer_signals(request: StopRequest) -> Iterator[None]:
    """Note signals in ``request`` instead of ending the process; only the main thread can."""
    before = {number: signal.signal(number, request.handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_group_signals(_: int = 0) -> None:
    """Keep a loader's worker alive while its parent finishes a step and saves.

    Ctrl-C, torchrun and cluster managers signal whole process groups, and a worker that ends takes its
    batches with it. SIGTERM ends it after ``WORKER_SECONDS``; PyTorch ends a worker whose parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where SIGTERM cannot be handled
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_SECONDS))


def python_command() -> str:
    """Return how to call this Python from the current folder: its path below it, or its name."""
    path, here = Path(sys.executable), Path.cwd()
    if path.is_relative_to(here):
        return str(path.relative_to(here))
    return path.name


def command_to_resume(argv: Sequence[str]) -> str:
    """Return this process's command line with ``resume=true``."""
    arguments = [argument.removeprefix("++") for argument in argv[1:]]
    kept = [argument for argument in arguments if not argument.startswith("resume=")]
    if is_installed_script(argv[0]):
        start, script = [], Path(argv[0]).name
    else:
        start, script = [python_command()], argv[0]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        start = ["torchrun ..."]
    return " ".join([*start, shlex.join([script, *kept, "resume=true"])])


def exit_after_signal(number: int) -> NoReturn:
    """Exit after everything was saved.

    Raises:
        SystemExit: with 128 and the signal's number, as shells report it.
    """
    LOG.info("stopped by %s; to resume: %s", signal.Signals(number).name, command_to_resume(sys.argv))
    raise SystemExit(128 + number)
