"""Files that appear whole or not at all; text of bounded length; tensors read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from segkit.system.failures import first_line


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, that takes its name once it is complete and on the disk.

    On an error nothing is left, and a file that had the name before is as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a symbolic link of that name
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def expand(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~NAME`` replaced by the home folder.

    Raises:
        ValueError: there is no user of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no user {Path(path).parts[0][1:]!r} on this machine") from error


def read_text(path: Path, *, most: int = 1 << 26) -> str:
    """The text of a file that a setting names; what never ends, as a device or a pipe, is not read.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ValueError: it is no regular file, too long, or not UTF-8.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is a folder, a device or a pipe; give a file")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, which is no such file ({most:,} at most)")
    return path.read_text(encoding="utf-8-sig")


def read_tensors(path: Path, source: Path | IO[bytes] | None = None, *, mapped: bool = False) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain values, on the CPU.

    Args:
        path: of the file, named in errors.
        source: where to read from, if not the file itself.
        mapped: leave the values of tensors on the disk until they are used.

    Raises:
        ValueError: the file is damaged, or asks to run code (which is not done).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols that are refused in the next moment
        try:
            return torch.load(source or path, map_location="cpu", weights_only=True, mmap=mapped or None)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: refused, because it is damaged or asks to run code: only tensors and plain values"
                " are read. If you trust it, load it where it came from and save model.state_dict() alone"
            ) from error
        except Exception as error:  # whatever a damaged file makes the reader stumble over
            raise ValueError(f"{path}: damaged, or not a PyTorch file ({first_line(error)})") from error


class Differences(NamedTuple):
    """What keeps the tensors of a file from being those of a model."""

    missing: list[str]  # not in the file
    unknown: list[str]  # in the file alone
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # name, shape in the file, shape here


def differences(own: Mapping[str, Any], given: Mapping[str, Any]) -> Differences:
    """Compare names and shapes; what is no tensor has the shape of a number."""
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in own.items()}
    others = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in given.items()}
    both = [name for name in shapes if name in others]
    return Differences(
        [name for name in shapes if name not in others],
        [name for name in others if name not in shapes],
        [(name, others[name], shapes[name]) for name in both if others[name] != shapes[name]],
    )


def refuse_another(own: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    """Make sure that a checkpoint's tensors are those of what is to take them.

    Raises:
        ValueError: they are not; all names and shapes that differ are listed.
    """
    missing, unknown, other_shape = differences(own, given)
    faults = [
        *(f"{name}: not in the checkpoint" for name in missing),
        *(f"{name}: in the checkpoint alone" for name in unknown),
        *(f"{n}: {theirs} in the checkpoint, {ours} here" for n, theirs, ours in other_shape),
    ]
    if faults:
        more = [f"and {len(faults) - 8} more"] if len(faults) > 8 else []
        raise ValueError(
            f"the checkpoint is of another {what}:\n  "
            + "\n  ".join([*faults[:8], *more])
            + f"\nresume with the {what}, data and schedule that the run began with, or begin a new"
            " run_name=... (model.weights=FILE starts from weights alone)"
        )
