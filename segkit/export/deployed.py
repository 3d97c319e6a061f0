"""An exported file as a network: predicted with and scored by the code that does so with a trained one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config.values import expand_home
from segkit.data.label_map import LabelMap
from segkit.export.files import find_format, hash_files, import_format
from segkit.inference.protocol import Protocol
from segkit.models.network import Segmenter
from segkit.runtime.text import first_line
from segkit.types import Logits

METADATA = ("interface", "image_size", "classes", "settings", "mean", "std", "align_corners", "precision")


def is_exported(file: str | Path) -> bool:
    """Whether a name is that of an exported file and not of a checkpoint."""
    return find_format(Path(file)) is not None


def read_metadata(file: str | Path) -> dict[str, Any]:
    """What a file says about itself.

    Raises:
        ValueError: there is no such file, it is damaged, or segkit did not write it.
    """
    path = Path(expand_home(str(file)))
    if not path.is_file():
        raise ValueError(f"checkpoint={file}: there is no such file")
    stored = import_format(find_format(path) or "onnx").read_metadata(path)
    try:
        about = {key: json.loads(stored[key]) for key in METADATA}
        about["licenses"] = json.loads(stored.get("licenses", "{}"))
        _check_metadata(about)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a file that export_seg.py wrote ({error!r} of its metadata), which alone say what "
            "they hold"
        ) from error
    return about


def _check_metadata(about: Mapping[str, Any]) -> None:
    mean, std, size = about["mean"], about["std"], about["image_size"]
    numbers = [*mean, *std]
    is_size = size is None or (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
    holds = {
        "interface": about["interface"] in ("ids", "logits"),
        "image_size": is_size,
        "mean": 0 < len(mean) == len(std) and all(type(n) in (int, float) and isfinite(n) for n in numbers),
        "std": min(std) > 0,
        "align_corners": isinstance(about["align_corners"], bool),
        "classes": isinstance(about["classes"], dict),
        "settings": isinstance(about["settings"], dict),
        "licenses": isinstance(about["licenses"], dict),
    }
    if wrong := [key for key, is_right in holds.items() if not is_right]:
        raise ValueError(f"{wrong[0]} is not valid")


class ExportedModel(nn.Module):
    """A file and the runtime that runs it, with what inference asks of a segmenter.

    Attributes:
        sha256: of the file, in the place of weights: what tells two evaluations apart.
    """

    mean: Tensor
    std: Tensor
    normalize = Segmenter.normalize

    def __init__(
        self, path: Path, num_classes: int, about: dict[str, Any], *, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.path, self.num_classes, self.about, self.precision = path, num_classes, about, precision
        self.align_corners, self.image_size = about["align_corners"], about["image_size"]
        self.class_names = LabelMap.from_plain(about["classes"]).names
        self.session = import_format(find_format(path) or "onnx").Session(
            path, threads=torch.get_num_threads(), precision=precision
        )
        self.in_channels = len(about["mean"])
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # says: on the CPU, float32
        self.register_buffer("sha256", torch.frombuffer(bytearray(hash_files(path)), dtype=torch.uint8))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(about[name]).view(-1, 1, 1), persistent=False)

    def with_precision(self, precision: str) -> Self:
        """The same file computing in another precision, where its runtime has it.

        Raises:
            ValueError: it has not.
        """
        if precision == self.precision:
            return self
        if precision not in self.session.precisions:
            raise ValueError(
                f"evaluation.precision={precision}: {self.path.name} computes in its own precision in "
                f"{self.session.runtime}; leave the setting out, or export with format=openvino, which has "
                "bf16"
            )
        return type(self)(self.path, self.num_classes, self.about, precision=precision)

    def run(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run images of one size, one after the other where the file's batch is fixed.

        Raises:
            ValueError: the file is of another size.
        """
        if self.image_size is None:
            return self._run(images)
        if list(size) != list(self.image_size):
            height, width = self.image_size
            window = f"evaluation.window=[{height},{width}]"
            wide = f"evaluation=sliding {window} evaluation.stride={window[17:]} evaluation.border=pad"
            works = (
                f"{wide} works for every image"
                if isinstance(self, ExportedLogitsModel)
                else (
                    "export with interface=logits for windows of that size, or with image_size=null for any"
                )
            )
            raise ValueError(
                f"{self.path.name} takes images of {height}x{width} alone and was to look at one of "
                f"{size[0]}x{size[1]}: {works}"
            )
        return np.concatenate([self._run(image[None]) for image in images])

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Return class ids (B, H, W) or logits (B, K, h, w), as the metadata promise."""
        try:
            found = self.session(images)
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # runtimes have errors of their own
            reason = first_line(error)
            raise ValueError(f"{self.path}: {self.session.runtime} cannot run it ({reason})") from error
        if isinstance(self, ExportedIdsModel):
            is_right = found.shape == images.shape[:3] and found.dtype.kind in "iu"
            is_right = is_right and found.min() >= 0 and found.max() < self.num_classes
        else:
            is_right = found.ndim == 4 and found.shape[:2] == (len(images), self.num_classes)
        if not is_right:
            raise ValueError(
                f"{self.path}: its output, {found.dtype} of shape {found.shape}, does not fit its metadata"
            )
        return found


class ExportedLogitsModel(ExportedModel):
    """A file of ``interface=logits``; every protocol can use it."""

    def forward(self, image: Tensor) -> Logits:
        """Normalized image (B, 3, H, W) to logits (B, K, h, w) at the resolution of the head."""
        height, width = image.shape[2:]
        return Logits(torch.from_numpy(self.run(np.ascontiguousarray(image.numpy()), (height, width))))


class ExportedIdsModel(ExportedModel):
    """A file of ``interface=ids``, for one look at the whole image."""

    def forward(self, image: Tensor) -> Logits:
        """There are no logits to be had.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.path.name} gives class ids, no scores: probabilities and scores of strips need a file "
            "that was exported with interface=logits"
        )

    def classify(self, image: Tensor, protocol: Protocol) -> Tensor:
        """Class ids (H, W) of an image (3, H, W) uint8.

        Raises:
            ValueError: the protocol merges several views or windows, which takes logits.
        """
        own_size = protocol.scales == (1.0,) and protocol.resize == "factor"
        if not own_size or protocol.flip or protocol.window:
            raise ValueError(
                f"evaluation={protocol.name}: {self.path.name} gives class ids, and merging scales, mirrored "
                "copies or windows takes logits; export with interface=logits, or use evaluation=whole"
            )
        height, width = image.shape[1:]
        array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return torch.from_numpy(self.run(array[None], (height, width))[0])


def load_exported(
    file: str | Path, num_classes: int, about: dict[str, Any] | None = None, *, trust_code: bool = False
) -> ExportedModel:
    """Return the network in a file, ready to predict.

    Args:
        file: with one of the suffixes of ``FORMATS``.
        num_classes: K.
        about: of ``read_metadata``, where they were read already.
        trust_code: open a ``.pt2``, which can run code.

    Raises:
        ValueError: the file is damaged, is not trusted, its runtime refuses it, or segkit did not write it.
    """
    path = Path(expand_home(str(file)))
    about = about or read_metadata(file)
    if find_format(path) == "torch_export" and not trust_code:
        raise ValueError(
            f"{path}: opening a .pt2 file can run any code in it. If you trust its origin, set "
            "trust_code=true (segkit.load(..., trust_code=True)); .onnx and .xml files need no trust"
        )
    kind = ExportedIdsModel if about["interface"] == "ids" else ExportedLogitsModel
    return kind(path, num_classes, about).eval()
