"""Files that appear whole or not at all, and tensors read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, that takes its name once it is complete and on the disk.

    On an error nothing is left, and a file that had the name before is as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path, source: Path | IO[bytes] | None = None) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain values, on the CPU.

    Args:
        path: of the file, named in errors.
        source: where to read from, if not the file itself.

    Raises:
        ValueError: the file is damaged, or asks to run code (which is not done).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols that are refused in the next moment
        try:
            return torch.load(source or path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: refused, because it is damaged or asks to run code: only tensors and plain values"
                " are read. If you trust it, load it where it came from and save model.state_dict() alone"
            ) from error
        except Exception as error:  # whatever a damaged file makes the reader stumble over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: damaged, or not a PyTorch file ({reason})") from error
