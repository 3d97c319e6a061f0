"""Writing of exported files: under a temporary name, renamed only after they were verified."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.export import int8, onnx, openvino, torch_export
from segkit.export.interfaces import ExportKind, LogitsNetwork, make_export_network
from segkit.models.network import Segmenter
from segkit.runtime.text import first_line

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
"""The suffix of each format."""
MODULES: dict[str, Any] = {"onnx": onnx, "openvino": openvino, "torch_export": torch_export}


def find_format(path: Path) -> str | None:
    """Return the format of a file by its suffix, None for other files."""
    return next((name for name, suffix in FORMATS.items() if path.suffix.lower() == suffix), None)


def is_exported(file: str | Path) -> bool:
    """Return whether the name is that of an exported file."""
    return find_format(Path(file)) is not None


@contextlib.contextmanager
def export_atomically(
    model: Segmenter,
    path: Path,
    kind: ExportKind,
    *,
    metadata: Mapping[str, Any],
    calibration: Sequence[np.ndarray] = (),
) -> Iterator[Path]:
    """Write the model to a temporary file, which gets its name when the context is left without an error.

    ``calibration`` holds images as the file takes them, for ``int8``.

    Yields:
        The temporary file, to be verified.

    Raises:
        ValueError: the exporter does not support an operator or setting.
    """
    network = make_export_network(model, kind)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", suffix=".part", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        try:
            _write(network, temporary, kind, metadata, calibration)
        except Exception as error:
            if isinstance(error, ValueError) and "segkit[export]" in str(error):
                raise
            raise ValueError(_describe_export_error(error, kind)) from error
        yield temporary
        for file in list_exported_files(path):  # OpenVINO: the weights first
            Path(folder, file.name).replace(file)


def _write(
    network: LogitsNetwork,
    path: Path,
    kind: ExportKind,
    metadata: Mapping[str, Any],
    calibration: Sequence[np.ndarray],
) -> None:
    if kind.format == "torch_export":
        torch_export.write(network, path, kind, metadata)
        return
    onnx_file = path.with_name("float.onnx")
    onnx.write(network, onnx_file, kind, metadata)
    if kind.precision == "int8":
        quantized = path.with_name("int8.onnx")
        int8.quantize(onnx_file, quantized, calibration)
        onnx_file = quantized
    if kind.format == "openvino":
        openvino.convert(onnx_file, path, kind, metadata)
    else:
        onnx_file.replace(path)


def _describe_export_error(error: Exception, kind: ExportKind) -> str:
    """Return the innermost error of an exporter, with the operator if one is named."""
    inner: BaseException = error
    texts = [str(error)]
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
        texts.append(str(inner))
    operators = re.findall(r"\b(?:aten|torchvision|segkit|quantized|custom)(?:::|\.)\w+", "\n".join(texts))
    operator = f" at the operator {operators[0]}" if operators else ""
    fix = "" if kind.image_size else ". Try a fixed image_size=[height,width]"
    return f"format={kind.format}: the network cannot be exported{operator}: {first_line(inner)[:300]}{fix}"


def list_exported_files(path: Path) -> list[Path]:
    """Return the files of an exported network; OpenVINO has its weights in a second one."""
    if path.suffix.lower() == ".xml":
        return [path.with_suffix(".bin"), path]
    return [path]


def hash_files(path: Path) -> bytes:
    """Return the SHA-256 of all files of an exported network."""
    digest = hashlib.sha256()
    for part in list_exported_files(path):
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()
