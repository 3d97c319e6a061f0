"""``torch.export``: a program of PyTorch operators (.pt2), run by PyTorch without segkit's code."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.export.interfaces import ExportKind, LogitsNetwork, Run

EXAMPLE_SIZE = (129, 97)  # odd and different: exporters merge equal sizes
PRECISIONS = ("float32",)
MEMBER = "segkit.json"
LARGEST_MEMBER = 1 << 26  # bytes


def export_program(network: LogitsNetwork, kind: ExportKind) -> tuple[Any, Tensor]:
    """Return the network as a program, and the image it was traced with."""
    if kind.image_size is not None:
        image, shapes = network.make_example(*kind.image_size, batch=1), None
    else:
        image = network.make_example(*EXAMPLE_SIZE, batch=2)  # exporters make a batch of one constant
        dims = (0, 1, 2) if kind.interface == "ids" else (0, 2, 3)
        shapes = (dict.fromkeys(dims, torch.export.Dim.DYNAMIC),)
    return torch.export.export(network, (image,), dynamic_shapes=shapes), image


def write(network: LogitsNetwork, path: Path, kind: ExportKind, metadata: Mapping[str, Any]) -> None:
    """Write the network, with the metadata as an extra file inside."""
    program, _ = export_program(network, kind)
    torch.export.save(program, str(path), extra_files={MEMBER: json.dumps(metadata)})


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, each value as JSON, without opening its program."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(f"extra/{MEMBER}")]
        if any(entry.file_size > LARGEST_MEMBER for entry in entries):
            raise ValueError(f"{MEMBER} is larger than {LARGEST_MEMBER:,} bytes")
        metadata = json.loads(archive.read(entries[0])) if entries else {}
    return {key: json.dumps(value) for key, value in metadata.items()}


def open_session(path: Path, *, threads: int, precision: str = "float32") -> Run:
    """Return a function that runs a batch by PyTorch on the CPU; opening a file can run any code in it."""
    with warnings.catch_warnings():  # PyTorch 2.11 warns about a read-only buffer
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        program = torch.export.load(str(path)).module()

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        return program(torch.from_numpy(images)).numpy()

    return run
