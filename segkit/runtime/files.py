"""Files that appear whole or not at all; text of bounded length; tensors read without running code."""

from __future__ import annotations

import codecs
import contextlib
import os
import pickle
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from segkit.runtime.errors import first_line

SAVE_WEIGHTS = "If you trust it, load it where it came from and save model.state_dict() alone"
SMALL_ENTRY = 1 << 20  # bytes
INFLATION = 20  # an honest file of weights shrinks by a tenth when it is zipped


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
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
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_output_folder(folder: Path) -> None:
    """Make a folder for ``output=``, before the work whose result goes there.

    Raises:
        OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"output={folder}: cannot be written ({error.strerror}). Choose another output=..."
        ) from error


def read_text(path: Path, *, most: int = 1 << 26) -> str:
    """Return the text of a file that a setting names; devices and pipes, which may never end, are refused.

    The encoding is UTF-8, UTF-16 (Windows' "Unicode") or, where the bytes are neither, Windows-1252.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ValueError: it is no regular file, too long, or not text.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is a folder, a device or a pipe; give a file")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, which is no such file ({most:,} at most)")
    data = path.read_bytes()
    try:
        text = data.decode(_encoding_of(data))
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:
        raise ValueError(f"{path}: not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding_of(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    low, high = data[:4096:2].count(0), data[1:4096:2].count(0)  # zeros of Latin letters, where no BOM tells
    if max(low, high) > len(data[:4096]) // 4:
        return "utf-16-le" if high > low else "utf-16-be"
    return "utf-8-sig"


def read_tensors(path: Path, source: Path | IO[bytes] | None = None, *, mapped: bool = False) -> Any:
    """Return what ``torch.save`` wrote, if it is tensors and plain values, on the CPU.

    PyTorch ignores the checksums of its zip files; they are checked first.

    Args:
        path: of the file, named in errors.
        source: where to read from, if not the file itself.
        mapped: leave the values of tensors on the disk until they are used, unchecked.

    Raises:
        ValueError: the file is damaged, or asks to run code (which is not done).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols that are refused in the next moment
        try:
            check_zip(source or path, most=SMALL_ENTRY if mapped else None)
            return torch.load(source or path, map_location="cpu", weights_only=True, mmap=mapped or None)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: refused, because it is damaged or asks to run code: only tensors and plain values"
                f" are read. {SAVE_WEIGHTS}"
            ) from error
        except Exception as error:  # whatever a damaged file makes the reader stumble over
            if "TorchScript" in str(error):  # whose advice is to run the code of the file
                raise ValueError(f"{path}: a TorchScript file, which holds code. {SAVE_WEIGHTS}") from error
            raise ValueError(f"{path}: damaged, or not a PyTorch file ({first_line(error)})") from error


def check_zip(source: Path | IO[bytes], *, most: int | None = None) -> None:
    """Check the checksums of a zip file, and that it does not inflate to many times its size.

    Args:
        source: a file or its name; a file that is no zip passes.
        most: bytes of an entry above which its checksum is not looked at; None checks all.

    Raises:
        ValueError: an entry is damaged, or the file inflates too much.
        Exception: whatever ``zipfile`` and its decompressors raise on damaged files.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if not is_zip:
            return
        with zipfile.ZipFile(file) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
            if inflated > INFLATION * size + SMALL_ENTRY:
                raise ValueError(f"{size:,} bytes inflate to {inflated:,}")
            for entry in archive.infolist():
                if most is None or entry.file_size <= most:
                    with archive.open(entry) as content:
                        while content.read(SMALL_ENTRY):  # raises at the end if the checksum differs
                            pass
        file.seek(0)


class Differences(NamedTuple):
    """What keeps the tensors of a file from being those of a model."""

    missing: list[str]  # not in the file
    unknown: list[str]  # in the file alone
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # name, shape in the file, shape here
    other_type: list[
        tuple[str, str, str]
    ]  # likewise, its type: integers for weights, complex numbers, no tensor

    def __str__(self) -> str:
        """Return at most three names of each kind, in one line."""
        faults = {
            "missing in the file": self.missing,
            "not in the model": self.unknown,
            "of another shape": [f"{n} {theirs} for {ours}" for n, theirs, ours in self.other_shape],
            "of another type": [f"{n} {theirs} for {ours}" for n, theirs, ours in self.other_type],
        }
        return "; ".join(
            f"{len(names)} {what}: {', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''}"
            for what, names in faults.items()
            if names
        )


def differences(own: Mapping[str, Any], given: Mapping[str, Any]) -> Differences:
    """Compare names, shapes and kinds of numbers; what is no tensor has the shape of a number."""
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in own.items()}
    others = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in given.items()}
    both = [name for name in shapes if name in others]
    kinds = {name: (_kind_of(given[name]), _kind_of(own[name])) for name in both}
    return Differences(
        [name for name in shapes if name not in others],
        [name for name in others if name not in shapes],
        [(name, others[name], shapes[name]) for name in both if others[name] != shapes[name]],
        [(name, *kinds[name]) for name in both if kinds[name][0] != kinds[name][1]],
    )


def _kind_of(value: Any) -> str:
    """Return what kind of numbers a tensor holds; one kind is copied into another without loss of meaning."""
    import torch

    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return "sparse, quantized or empty tensor"
    if value.is_complex():
        return "complex"
    return "float" if value.is_floating_point() else "integer"


def check_state_matches(own: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    """Make sure that a checkpoint's tensors are those of what is to take them.

    Raises:
        ValueError: they are not; the first names and shapes that differ are listed.
    """
    differing = differences(own, given)
    if any(differing):
        raise ValueError(
            f"the checkpoint is of another {what}: {differing}. Resume with the {what}, data and schedule"
            " that the run began with, or begin a new run_name=... (model.weights=FILE starts from weights"
            " alone)."
        )
