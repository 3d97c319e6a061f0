"""``torch.export``: a program of PyTorch's own operators (.pt2), run by PyTorch without segkit's code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.inference.export.interfaces import Kind
from segkit.system.failures import first_line

EXAMPLE = (129, 97)  # odd, and unlike: an exporter takes equal sizes for one
MEMBER = "segkit.json"
WHAT = "file of torch.export"


def example(network: Any, kind: Kind) -> Tensor:
    """An image of the size that is exported; where any size is, two of an odd one."""
    if kind.image_size is not None:
        return network.example(*kind.image_size, batch=1)
    return network.example(*EXAMPLE, batch=2)  # exporters take a batch of one for a constant


def exported(network: nn.Module, kind: Kind) -> tuple[Any, Tensor]:
    """The network as a program, and the image it was traced with."""
    image = example(network, kind)
    shapes = None
    if kind.image_size is None:
        places = (0, 1, 2) if kind.interface == "ids" else (0, 2, 3)
        shapes = (dict.fromkeys(places, torch.export.Dim.DYNAMIC),)
    return torch.export.export(network, (image,), dynamic_shapes=shapes), image


def write(network: nn.Module, path: Path, kind: Kind, about: Mapping[str, Any]) -> None:
    """Write the network, with ``about`` as an extra file inside."""
    program, _ = exported(network, kind)
    torch.export.save(program, str(path), extra_files={MEMBER: json.dumps(about)})


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ValueError: it is not such a file.
    """
    return inside(path, _load, WHAT)[1]


def inside(path: Path, load: Callable[..., Any], what: str) -> tuple[Any, dict[str, str]]:
    """The network in a file of PyTorch's, and the extra file beside it: facts, each as JSON.

    Args:
        path: of the file.
        load: given the name of the file and the extra files to fill, the network.
        what: such a file is called.

    Raises:
        ValueError: it is none.
    """
    extra = {MEMBER: ""}
    try:
        network = load(str(path), extra)
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise ValueError(f"{path}: damaged, or not a {what} ({first_line(error)})") from error
    about = json.loads(extra[MEMBER] or "{}")
    return network, {key: json.dumps(value) for key, value in about.items()}


def _load(file: str, extra: dict[str, Any]) -> Any:
    with warnings.catch_warnings():  # of PyTorch 2.11's own reader, about bytes that nobody writes to
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(file, extra_files=extra)


class Session:
    """A file that PyTorch runs on the CPU."""

    runtime = "torch"
    precisions = ("float32",)

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        self.run = inside(path, _load, WHAT)[0].module()

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
