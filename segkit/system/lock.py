"""One process at a time writes a run folder.

The lock is a POSIX record lock on a file that tells its owner. The kernel drops it with the process, however
that ends, and file servers that know it carry it from machine to machine. Where one does not, the owner's
beating heart (the file's time of change) tells a living run from a dead one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOG = logging.getLogger("segkit")
NAME = "run.lock"
BEAT = 15.0  # seconds
SILENCE = 4 * BEAT  # after which an owner on another machine counts as dead


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the only owner of a folder; its lock file goes at the end.

    Raises:
        ValueError: another process is; it is named.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    file = _acquired(path)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        path.unlink(missing_ok=True)
        file.close()


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _acquired(path: Path) -> IO[str]:
    """The lock file, open, locked and signed."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _refuse_a_living_owner(path, file)
            if _still_there(path, file):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its owner finished, and took it away, between our opening and our locking
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}, file)
    file.flush()
    return file


def _refuse_a_living_owner(path: Path, file: IO[str]) -> None:
    locked = _try_to_lock(file)
    owner = _owner(file)
    if owner is None and locked:
        return
    owner = owner or {"pid": "unknown", "host": "unknown", "since": "just now"}
    elsewhere = owner["host"] != socket.gethostname()
    if not locked or (elsewhere and _beats(path)):
        age = max(0.0, time.time() - path.stat().st_mtime)
        raise ValueError(
            f"{path.parent} is in use by process {owner['pid']} on {owner['host']}, since {owner['since']}"
            f" (last sign of life {age:.0f} s ago); wait for it, stop it, or choose another run_name=..."
        )
    LOG.warning(
        "%s: process %s on %s (since %s) is gone without a farewell; taking its lock over",
        path.parent,
        owner["pid"],
        owner["host"],
        owner["since"],
    )


def _try_to_lock(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True  # a file system without locks leaves the heart to tell


def _owner(file: IO[str]) -> dict[str, Any] | None:
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:  # nobody yet, or one that died while signing
        return None
    known = isinstance(owner, dict) and {"pid", "host", "since"} <= owner.keys()
    return owner if known else None


def _beats(path: Path) -> bool:
    """Whether an owner elsewhere gives a sign of life; clocks of machines differ, so it is waited for."""
    last, until = path.stat().st_mtime_ns, time.monotonic() + SILENCE
    LOG.warning("%s: waiting up to %.0f s for a sign of life of its owner", path, SILENCE)
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE / 8))
        try:
            if path.stat().st_mtime_ns != last:
                return True
        except FileNotFoundError:
            return False
    return False


def _still_there(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
