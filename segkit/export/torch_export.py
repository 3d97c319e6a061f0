"""``torch.export``: a program of PyTorch's own operators (.pt2), run by PyTorch without segkit's code."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.export.interfaces import ExportKind
from segkit.runtime.text import first_line

EXAMPLE = (129, 97)  # odd, and unlike: an exporter takes equal sizes for one
MEMBER = "segkit.json"
LARGEST_MEMBER = 1 << 26  # bytes


def make_example_image(network: Any, kind: ExportKind) -> Tensor:
    """An image of the size that is exported; where any size is, two of an odd one."""
    if kind.image_size is not None:
        return network.example(*kind.image_size, batch=1)
    return network.example(*EXAMPLE, batch=2)  # exporters take a batch of one for a constant


def export_program(network: nn.Module, kind: ExportKind) -> tuple[Any, Tensor]:
    """The network as a program, and the image it was traced with."""
    image = make_example_image(network, kind)
    shapes = None
    if kind.image_size is None:
        places = (0, 1, 2) if kind.interface == "ids" else (0, 2, 3)
        shapes = (dict.fromkeys(places, torch.export.Dim.DYNAMIC),)
    return torch.export.export(network, (image,), dynamic_shapes=shapes), image


def write(network: nn.Module, path: Path, kind: ExportKind, about: Mapping[str, Any]) -> None:
    """Write the network, with ``about`` as an extra file inside."""
    program, _ = export_program(network, kind)
    torch.export.save(program, str(path), extra_files={MEMBER: json.dumps(about)})


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, each value as JSON, without opening the program in it.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"extra/{MEMBER}")]
            entries = [archive.getinfo(name) for name in names]
            if any(entry.file_size > LARGEST_MEMBER for entry in entries):
                raise ValueError(f"{MEMBER} is larger than {LARGEST_MEMBER:,} bytes")
            about = json.loads(archive.read(entries[0])) if entries else {}
        return {key: json.dumps(value) for key, value in about.items()}
    except Exception as error:  # zipfile has many errors for damaged archives
        raise ValueError(f"{path}: damaged, or not a file of torch.export ({first_line(error)})") from error


class Session:
    """A file that PyTorch runs on the CPU. Opening it runs code that the file may choose."""

    runtime = "torch"
    precisions = ("float32",)

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        try:
            with warnings.catch_warnings():  # PyTorch 2.11 warns about bytes that nobody writes to
                warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
                self.run = torch.export.load(str(path)).module()
        except Exception as error:  # damaged files make the reader raise anything
            raise ValueError(
                f"{path}: damaged, or not a file of torch.export ({first_line(error)})"
            ) from error

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run one batch.

        Raises:
            ValueError: the program is for images of some sizes alone.
        """
        try:
            return self.run(torch.from_numpy(image)).numpy()
        except AssertionError as error:  # a guard in it: PyTorch before 2.13 has some at every pooling
            raise ValueError(
                f"the program takes images of some sizes alone ({first_line(error)}), not of {image.shape}; "
                "export it with PyTorch 2.13 or newer, or for one size: image_size=[height,width]"
            ) from error
