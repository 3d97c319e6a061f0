"""Run folders: find, check and lock them. Nothing here imports PyTorch, so errors appear at once."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segkit.config.values import expand_home
from segkit.runtime import files

LOG = logging.getLogger("segkit")
LOCK, OWNER = "run.lock", "run.owner"
LEFTOVERS = (LOCK, OWNER, "train.log", "events.*", "*.part", "trace.json.gz", "lr_finder.png")
"""Files of a start that failed or of a diagnostic; a folder with nothing else has no run in it."""


def get_run_folder(settings: Mapping[str, Any]) -> Path:
    """Return ``run_dir/run_name``."""
    return Path(settings["run_dir"], settings["run_name"])


def find_run_to_resume(settings: Mapping[str, Any]) -> Path | None:
    """Return the folder of the run to resume, None for a new run; the settings may be unchecked."""
    parts = settings.get("run_dir"), settings.get("run_name")
    if settings.get("resume") not in (True, "auto") or not all(isinstance(part, str) for part in parts):
        return None
    folder = Path(expand_home(str(get_run_folder(settings))))
    if list_checkpoints(folder):
        return folder
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first, readable or not."""
    files_found = folder.glob("iteration_*.pt")
    checkpoints = [f for f in files_found if f.stem.removeprefix("iteration_").isdecimal()]
    return sorted(checkpoints, key=parse_iteration, reverse=True)


def parse_iteration(checkpoint: Path) -> int:
    """Return the number in the name of a checkpoint."""
    return int(checkpoint.stem.removeprefix("iteration_"))


def is_main() -> bool:
    """Return whether this is the main process, according to ``torchrun``; needs no PyTorch."""
    return os.environ.get("RANK", "0") == "0"


def check_run_folder(folder: Path, *, resume: bool | str) -> None:
    """Check that there is a run to resume, or none in the way of a new one.

    It only reads, so every process may call it; no process writes a checkpoint before all have called it.

    Raises:
        ValueError: there is a run and ``resume`` is false, or there is none and ``resume`` is true.
        OSError: the folder cannot be read.
    """
    names = [file for file in folder.iterdir() if not _is_leftover(file)] if folder.is_dir() else []
    if resume is False and any(file.suffix == ".pt" for file in names):
        raise ValueError(
            f"{folder}: has a run already. Continue it with resume=true, or choose another run_name"
        )
    if resume is False and names:
        raise ValueError(
            f"{folder}: has other files ({names[0].name}) and no run. Choose another run_name=..."
        )
    if resume is True and not list_checkpoints(folder):
        raise ValueError(f"{folder}: has no checkpoint to resume from. Start the run with resume=false.")


def _is_leftover(file: Path) -> bool:
    return any(file.match(pattern) for pattern in LEFTOVERS)


@contextlib.contextmanager
def lock_run_folder(folder: Path, *, resume: bool | str) -> Iterator[None]:
    """Create and lock a run folder; at the end it is unlocked, and removed if it is empty.

    The main process locks it for all; the others only check it.

    Args:
        folder: ``runs/NAME``, on a file system that all processes see.
        resume: False for a new run, True to resume one, "auto" for either.

    Raises:
        ValueError: ``check_run_folder`` refuses it, or another process uses it.
        OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            check_run_folder(folder, resume=resume)
            if is_main():
                _create_and_lock(folder, stack)
        except OSError as error:
            message = f"{folder}: cannot be written ({error.strerror}). Choose another folder with run_dir="
            raise OSError(message) from error
        yield


def _create_and_lock(folder: Path, stack: contextlib.ExitStack) -> None:
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    stack.callback(_remove_if_empty, new_folders)
    for file in folder.iterdir():
        if file.is_symlink() and file.suffix != ".pt":  # checkpoints are replaced, not written through links
            raise ValueError(f"{file}: is a symbolic link, which a run does not write through. Remove it.")
    stack.enter_context(run_lock(folder))
    for file in folder.glob("*.part"):  # of an interrupted write
        with contextlib.suppress(OSError):
            file.unlink()
    if not list_checkpoints(folder) and any(file.name not in (LOCK, OWNER) for file in folder.iterdir()):
        LOG.warning("%s: an earlier start left no checkpoint; starting anew", folder)


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock a run folder; the operating system releases the lock when the process ends.

    Raises:
        ValueError: another process has locked it.
        OSError: the folder cannot be written.
    """
    lock, owner = FileLock(folder / LOCK, blocking=False), folder / OWNER
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder}: is in use by {_read_owner(owner)}. Wait for it, or choose another run_name=..."
        ) from None
    try:
        description = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
        files.write_text(owner, description)
        yield
    finally:
        for file in (owner, folder / LOCK):
            with contextlib.suppress(OSError):  # Windows does not remove an open file
                file.unlink()
        lock.release()


def _read_owner(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return files.read_text(file, most=1000)
    return "another process"


def _remove_if_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
