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

from segkit.runtime import files

LOG = logging.getLogger("segkit")
LOCK, OWNER = "run.lock", "run.owner"
LEFT_BEHIND = (LOCK, OWNER, "train.log", "events.*", "*.part", "trace.json.gz", "lr_finder")
"""What a start that failed may leave; a folder with nothing else has no run in it."""


def folder_of(settings: Mapping[str, Any]) -> Path:
    """``run_dir/run_name``."""
    return Path(settings["run_dir"], settings["run_name"])


def find_run_to_resume(settings: Mapping[str, Any]) -> Path | None:
    """The folder of the run that is to go on, by settings not yet checked; None if none is."""
    where = settings.get("run_dir"), settings.get("run_name")
    if settings.get("resume") not in (True, "auto") or not all(isinstance(part, str) for part in where):
        return None
    folder = Path(*where)  # pyright: ignore[reportArgumentType]
    return folder if checkpoints_in(folder) else None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first, readable or not."""
    found = [
        file for file in folder.glob("iteration_*.pt") if file.stem.removeprefix("iteration_").isdecimal()
    ]
    return sorted(found, key=iteration_of, reverse=True)


def iteration_of(checkpoint: Path) -> int:
    """Return the number in the name of a checkpoint."""
    return int(checkpoint.stem.removeprefix("iteration_"))


def check_run_folder(folder: Path, *, resume: bool | str) -> None:
    """Refuse to begin a run where one is, and to continue one that is not there.

    It only looks, so every process may ask; no process writes a checkpoint before all have asked.

    Raises:
        ValueError: a run is there and was not to be continued, or none is there to continue.
        OSError: the folder cannot be read.
    """
    try:
        names = [file for file in folder.iterdir() if not _left_behind(file)] if folder.is_dir() else []
    except OSError as error:
        raise unwritable_folder_error(folder, error) from error
    if resume is False and any(file.suffix == ".pt" for file in names):
        raise ValueError(
            f"{folder} holds a run already; continue it with resume=true or choose another run_name=..."
        )
    if resume is False and names:
        raise ValueError(
            f"{folder} holds other files ({names[0].name}) and no run; choose another run_name=..."
        )
    if resume is True and not checkpoints_in(folder):
        raise ValueError(f"there is no checkpoint in {folder} to resume; start it with resume=false")


def _left_behind(file: Path) -> bool:
    return any(file.match(pattern) for pattern in LEFT_BEHIND)


@contextlib.contextmanager
def lock_run_folder(folder: Path, *, resume: bool | str) -> Iterator[None]:
    """Hold a run's folder, made if need be, before anything is built for the run.

    The main process of several locks it for all; the others look whether they agree. At its end the folder is
    free, and gone if nothing came of it.

    Args:
        folder: ``runs/NAME``, on a file system that all processes see.
        resume: False wants a new run, True one to continue, "auto" takes what there is.

    Raises:
        ValueError: ``check_run_folder`` has a reason, or another process is at it.
        OSError: the folder cannot be written.
    """
    check_run_folder(folder, resume=resume)
    with contextlib.ExitStack() as held:
        if is_main():
            _claim(folder, held)
        yield


def is_main() -> bool:
    """Whether this process speaks for all, by what ``torchrun`` told it: known before PyTorch is loaded."""
    return os.environ.get("RANK", "0") == "0"


def _claim(folder: Path, held: contextlib.ExitStack) -> None:
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.callback(_remove_if_empty, made)
        _refuse_symbolic_links(folder)
        held.enter_context(run_lock(folder))
        _settle(folder)
        if not checkpoints_in(folder) and any(file.name not in (LOCK, OWNER) for file in folder.iterdir()):
            LOG.warning("%s: an earlier start left no checkpoint there; beginning anew", folder)
    except OSError as error:
        raise unwritable_folder_error(folder, error) from error


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; the operating system releases it when the process ends.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be written.
    """
    lock, owner = FileLock(folder / LOCK, blocking=False), folder / OWNER
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder} is in use by {_read_owner(owner)}; wait for it, stop it, or choose another"
            " run_name=..."
        ) from None
    try:
        with files.atomic_write(owner) as file:
            file.write(
                f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}".encode()
            )
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


def _refuse_symbolic_links(folder: Path) -> None:
    """Raise ValueError for links in a run folder: its files are appended to, wherever a link points.

    Checkpoints may be links, because writing replaces them.
    """
    for file in folder.iterdir():
        if file.is_symlink() and file.suffix != ".pt":
            raise ValueError(
                f"{file}: symbolic links in a run folder are not followed. Remove it, or choose another"
                " run_name=..."
            )


def unwritable_folder_error(folder: Path, error: OSError) -> OSError:
    """That a folder cannot be used, and what to do."""
    return OSError(
        f"{folder} cannot be written ({error.strerror}); choose a folder that can be with run_dir=..."
    )


def _remove_if_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _settle(folder: Path) -> None:
    """Remove what an interrupted write left."""
    for leftover in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            leftover.unlink()
