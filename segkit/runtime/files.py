"""Atomic writes, text of bounded length, and tensors read without running code."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import pickle
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from segkit.runtime.text import first_line

SAVE_WEIGHTS = "If you trust it, load it where it came from and save model.state_dict() alone"
SMALL_ENTRY = 1 << 20  # bytes
MAX_INFLATION = 20  # compression shrinks an honest file of weights by a tenth


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name once it is complete and on disk.

    After an error nothing is left, and an existing file of that name is unchanged.
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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write plain values as a JSON file atomically."""
    write_text(path, json.dumps(to_json_values(content), indent=1, ensure_ascii=False) + "\n")


def to_json_values(value: Any) -> Any:
    """Return values as JSON has them: lists for tuples, null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_output_folder(folder: Path) -> None:
    """Create a folder for ``output=``; called before the work whose result goes there.

    Raises:
        OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"output={folder}: cannot be written ({error.strerror}). Choose another output="
        ) from error


def read_text(path: Path, *, most: int = 1 << 26) -> str:
    """Return the text of a regular file in UTF-8, UTF-16 with a mark or, if it is neither, Windows-1252.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ValueError: it is not a regular file (devices and pipes may never end), too long, or not text.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is a folder, a device or a pipe; give a file")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, and at most {most:,} are read")
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:
        raise ValueError(f"{path}: not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_tensors(path: Path, source: Path | IO[bytes] | None = None, *, mapped: bool = False) -> Any:
    """Return the tensors and plain values in a file of ``torch.save``, on the CPU.

    PyTorch ignores the checksums of its zip files; they are checked first.

    Args:
        path: of the file, named in errors.
        source: where to read from, if not the file itself.
        mapped: leave the values of tensors on disk until they are used, unchecked.

    Raises:
        ValueError: the file is damaged or contains code, which is not run.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols, which are then refused
        try:
            check_zip(source or path, most=SMALL_ENTRY if mapped else None)
            return torch.load(source or path, map_location="cpu", weights_only=True, mmap=mapped or None)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: refused, because it is damaged or asks to run code: only tensors and plain values"
                f" are read. {SAVE_WEIGHTS}"
            ) from error
        except Exception as error:  # a damaged file can raise any
            if "TorchScript" in str(error):  # whose advice is to run the code of the file
                raise ValueError(f"{path}: a TorchScript file, which holds code. {SAVE_WEIGHTS}") from error
            advice = "; if it is an archive, unpack it" if path.suffix == ".zip" else ""
            raise ValueError(
                f"{path}: damaged, or not a PyTorch file{advice} ({first_line(error)})"
            ) from error


def check_zip(source: Path | IO[bytes], *, most: int | None = None) -> None:
    """Check the checksums of a zip file, and that it does not inflate to many times its size.

    Args:
        source: a file or its name; other files than zips pass.
        most: bytes of an entry above which its checksum is not checked; None checks all.

    Raises:
        ValueError: an entry is damaged, or the file inflates too much.
        Exception: whatever ``zipfile`` and its decompressors raise on damaged files.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            check_zip(file, most=most)
        return
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    is_zip = source.read(4) == b"PK\x03\x04"
    source.seek(0)
    if not is_zip:
        return
    with zipfile.ZipFile(source) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > MAX_INFLATION * size + SMALL_ENTRY:
            raise ValueError(f"{size:,} bytes inflate to {inflated:,}")
        for entry in archive.infolist():
            if most is None or entry.file_size <= most:
                with archive.open(entry) as content:
                    while content.read(SMALL_ENTRY):  # raises at the end if the checksum differs
                        pass
    source.seek(0)


class StateDifferences(NamedTuple):
    """Names that differ between the state dict of a file and that of a model; the last two with how."""

    missing: list[str]  # not in the file
    unknown: list[str]  # only in the file
    other_shape: list[str]
    other_type: list[str]

    def __str__(self) -> str:
        """Return at most three names of each kind, in one line."""
        kinds = ("missing in the file", "not in the model", "of another shape", "of another type")
        parts = []
        for kind, names in zip(kinds, self, strict=True):
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {kind}: {', '.join(map(str, names[:3]))}{more}")
        return "; ".join(parts)


def compare_states(model: Mapping[str, Any], file: Mapping[str, Any]) -> StateDifferences:
    """Compare names, shapes and kinds of numbers; values that are not tensors have shape ()."""
    shared = [name for name in model if name in file]

    def compare(describe: Callable[[Any], Any]) -> list[str]:
        pairs = [(name, describe(file[name]), describe(model[name])) for name in shared]
        return [f"{name} {there} for {here}" for name, there, here in pairs if there != here]

    return StateDifferences(
        missing=[name for name in model if name not in file],
        unknown=[name for name in file if name not in model],
        other_shape=compare(lambda value: tuple(getattr(value, "shape", ()))),
        other_type=compare(_number_kind),
    )


def _number_kind(value: Any) -> str:
    """Return the kind of numbers in a tensor; copying within a kind keeps their meaning."""
    import torch

    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return "sparse, quantized or empty tensor"
    if value.is_complex():
        return "complex"
    if value.is_floating_point():
        return "float"
    return "integer"


def check_state_matches(own: Mapping[str, Any], stored: Mapping[str, Any], owner: str) -> None:
    """Check that the tensors of a checkpoint fit a model or an optimizer, ``owner``.

    Raises:
        ValueError: they do not; the first names and shapes that differ are listed.
    """
    differences = compare_states(own, stored)
    if any(differences):
        raise ValueError(
            f"the checkpoint is of another {owner}: {differences}. Resume with the {owner}, data and schedule"
            " of the run, or start a new run_name=... (model.weights=FILE starts from weights alone)."
        )
