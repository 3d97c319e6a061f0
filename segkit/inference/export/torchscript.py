"""TorchScript (.ts): a trace that libtorch runs without Python; PyTorch keeps it, but develops it no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit.inference.export import torch_export
from segkit.inference.export.interfaces import Kind
from segkit.inference.export.onnx import quietly

MEMBER = torch_export.MEMBER


def write(network: nn.Module, path: Path, kind: Kind, about: Mapping[str, Any]) -> None:
    """Write the network, with ``about`` as an extra file inside."""
    with torch.no_grad(), quietly():
        trace = torch.jit.trace(network, torch_export.example(network, kind), check_trace=False)
        torch.jit.save(trace, str(path), _extra_files={MEMBER: json.dumps(about)})


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ValueError: it is not such a file.
    """
    return {key: json.dumps(value) for key, value in _read(path)[1].items()}


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    extra = {MEMBER: ""}
    try:
        with quietly():
            trace = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged, or not a TorchScript file ({str(error).splitlines()[0]})"
        ) from error
    return trace.eval(), json.loads(extra[MEMBER] or "{}")


class Session(torch_export.Session):
    """A trace that PyTorch runs on the CPU."""

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        self.run = _read(path)[0]
