"""Writing an exported file: under a temporary name, and moved only when it was found to be right."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from segkit.export import int8, onnx, openvino, torch_export
from segkit.export.interfaces import ExportKind

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
"""The suffix of each format's file."""


def find_format(path: Path) -> str | None:
    """The format of a file by its suffix, None of others."""
    return next((name for name, suffix in FORMATS.items() if path.suffix.lower() == suffix), None)


def import_format(format: str) -> Any:
    """The module of a format, with ``Session`` and ``metadata``."""
    return importlib.import_module(f"segkit.export.{format}")


def choose_export_path(output: str | None, beside: Path, kind: ExportKind) -> Path:
    """Where the file goes.

    Args:
        output: as the settings say it; None is a name beside the weights.
        beside: the file that the weights are from.
        kind: of file.

    Raises:
        ValueError: the name is that of another format, or the precision is not to be had in this one.
    """
    if kind.precision == "int8" and kind.format not in ("onnx", "openvino"):
        raise ValueError(
            f"format={kind.format} precision=int8: only format=onnx and format=openvino have 8 bits"
        )
    suffix = FORMATS[kind.format]
    if output is None:
        words = "" if kind.precision == "fp32" else f"-{kind.precision}"
        return beside.with_name(f"{beside.stem}{words}{suffix}")
    path = Path(output).expanduser()
    if path.suffix.lower() != suffix:
        meant = find_format(path)
        remedy = f"say format={meant}, or " if meant else ""
        raise ValueError(
            f"output={output}: a file of format={kind.format} ends in {suffix}; {remedy}change the name"
        )
    return path


@contextlib.contextmanager
def export_atomically(
    network: nn.Module,
    path: Path,
    kind: ExportKind,
    *,
    about: Mapping[str, Any],
    calibration: Sequence[np.ndarray] = (),
) -> Iterator[Path]:
    """Write the network under a temporary name; when the context is left without an error, it gets its own.

    Args:
        network: as ``network_for`` makes it.
        path: of the file that is wanted.
        kind: of file.
        about: for the metadata, plain values.
        calibration: images as the file takes them, for ``int8``.

    Yields:
        The temporary file, to be run and compared.

    Raises:
        ValueError: the exporter does not know an operator or takes a setting amiss.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", suffix=".part", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        try:
            _write(network, temporary, kind, about, calibration)
        except Exception as error:
            if isinstance(error, ValueError) and "segkit[export]" in str(error):
                raise
            raise ValueError(_in_words(error, kind)) from error
        yield temporary
        for part in list_exported_files(path):  # the weights before the file that asks for them
            Path(folder, part.name).replace(part)


def _write(
    network: nn.Module,
    path: Path,
    kind: ExportKind,
    about: Mapping[str, Any],
    calibration: Sequence[np.ndarray],
) -> None:
    if kind.format == "torch_export":
        torch_export.write(network, path, kind, about)
        return
    plain = path.with_name("float.onnx")
    onnx.write(network, plain, kind, about)
    made = plain
    if kind.precision == "int8":
        made = path.with_name("int8.onnx")
        int8.quantize(plain, made, calibration)
    if kind.format == "openvino":
        openvino.convert(made, path, kind, about)
    else:
        made.replace(path)


def _in_words(error: Exception, kind: ExportKind) -> str:
    """What the exporter stumbled over: its innermost error, with the operator if it names one."""
    inner: BaseException = error
    said = [str(error)]
    while (below := inner.__cause__ or inner.__context__) is not None:
        inner = below
        said.append(str(inner))
    operators = [
        word
        for text in said
        for word in re.findall(r"\b(?:aten|torchvision|segkit|quantized|custom)(?:::|\.)\w+", text)
    ]
    operator = f" at the operator {operators[0]}" if operators else ""
    line = next((line.strip() for line in str(inner).splitlines() if line.strip()), type(inner).__name__)
    remedy = "" if kind.image_size else "; a fixed image_size=[height,width] asks less of the exporter"
    return f"format={kind.format}: the network cannot be exported{operator}: {line[:300]}{remedy}"


def list_exported_files(path: Path) -> list[Path]:
    """The files of an exported network: OpenVINO has its weights beside it."""
    return [path.with_suffix(".bin"), path] if path.suffix.lower() == ".xml" else [path]


def hash_files(path: Path) -> bytes:
    """Of all parts of an exported network."""
    digest = hashlib.sha256()
    for part in list_exported_files(path):
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()
