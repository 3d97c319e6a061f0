"""Leaving when asked: the first SIGTERM or SIGINT is remembered, for the loop to stop at a whole iteration.

A second one leaves at once, with nothing saved and nothing half-written under a whole file's name.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from segkit.system.commands import is_installed_script

LOG = logging.getLogger("segkit")
ASKING = (signal.SIGTERM, signal.SIGINT)
ONE = 2.0  # seconds within which signals count as one: torchrun passes on what its group has got already
WATCH = 0.2  # seconds between two looks of a worker whether its parent lives
GRACE = 60.0  # seconds a worker outlives a SIGTERM whose sender it cannot know


@dataclass
class Request:
    """Which signal asked this process to leave; 0 for none yet."""

    signal: int = 0


@contextlib.contextmanager
def listening(request: Request) -> Iterator[None]:
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
            f"\n{signal.Signals(number).name}: saving after this iteration; once more leaves now\n"
        )

    before = {number: signal.signal(number, hear) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def obey_parent_alone(_: int = 0) -> None:
    """For a loader's worker: end with the parent, not with a signal meant for it.

    Ctrl-C, torchrun and cluster managers signal whole groups of processes; a worker that dies of that takes
    from the parent the batches of the iteration it wants to finish. A parent that was killed can say nothing,
    so whether it still is there is asked every ``WATCH`` seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    started_by = multiprocessing.parent_process()
    senders = {parent, started_by.pid if started_by else parent}  # a fork server stands between the two
    wait = _terminated_by(senders) if hasattr(signal, "sigtimedwait") else _terminated_for_long()

    def watch() -> None:
        while os.getppid() == parent and not wait():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _terminated_by(senders: set[int]) -> Callable[[], bool]:
    """Block SIGTERM; what is returned waits ``WATCH`` seconds and tells whether one of these sent it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> bool:
        arrived = signal.sigtimedwait([signal.SIGTERM], WATCH)
        return arrived is not None and arrived.si_pid in senders

    return wait


def _terminated_for_long() -> Callable[[], bool]:
    """The same where no system call tells who sent it (macOS): SIGTERM counts after ``GRACE`` seconds.

    In this time the parent, which got the signal as well, ends its iteration, saves and goes.
    """
    arrived: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: arrived.append(time.monotonic()))

    def wait() -> bool:
        time.sleep(WATCH)
        return bool(arrived) and time.monotonic() - arrived[0] > GRACE

    return wait


def interpreter() -> str:
    """How to call this Python from here: by its path below the current folder, or by its name."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def command_to_resume(argv: Sequence[str]) -> str:
    """This process's command line, with ``resume=true``."""
    arguments = [a.removeprefix("++") for a in argv[1:]]
    kept = [a for a in arguments if not a.startswith("resume=")]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    installed = is_installed_script(argv[0])
    start = "torchrun ... " if several else "" if installed else f"{interpreter()} "
    script = Path(argv[0]).name if installed else argv[0]
    return f"{start}{shlex.join([script, *kept, 'resume=true'])}"


def leave(number: int) -> NoReturn:
    """End as a signal asked, after all was saved.

    Raises:
        SystemExit: with 128 and the signal's number, as a shell counts.
    """
    LOG.info("left on %s; to go on: %s", signal.Signals(number).name, command_to_resume(sys.argv))
    raise SystemExit(128 + number)
