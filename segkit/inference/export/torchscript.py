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

MEMBER, WHAT = torch_export.MEMBER, "TorchScript file"


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
    return torch_export.inside(path, _load, WHAT)[1]


def _load(file: str, extra: dict[str, Any]) -> torch.jit.ScriptModule:
    with quietly():
        return torch.jit.load(file, map_location="cpu", _extra_files=extra).eval()


class Session(torch_export.Session):
    """A trace that PyTorch runs on the CPU."""

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        self.run = torch_export.inside(path, _load, WHAT)[0]
