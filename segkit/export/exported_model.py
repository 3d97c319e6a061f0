"""Exported files as networks, used and scored by the same code as trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config.values import expand_home
from segkit.data.label_map import LabelMap
from segkit.export.files import MODULES, find_format, hash_files
from segkit.export.metadata import read_metadata
from segkit.inference.protocol import Protocol
from segkit.models.network import Segmenter
from segkit.runtime.text import first_line
from segkit.types import Logits


class ExportedModel(nn.Module):
    """A file of ``interface=logits`` and its runtime, with the interface of a segmenter that inference uses.

    Attributes:
        table: of the classes.
        metadata: from ``read_metadata``.
        sha256: of the file, in place of weights, to distinguish evaluations.
    """

    mean: Tensor
    std: Tensor
    normalize = Segmenter.normalize

    def __init__(self, path: Path, metadata: dict[str, Any], *, precision: str = "float32") -> None:
        super().__init__()
        self.path, self.metadata, self.precision = path, metadata, precision
        self.align_corners, self.image_size = metadata["align_corners"], metadata["image_size"]
        self.table = LabelMap.from_plain(metadata["classes"])
        self.class_names, self.num_classes = self.table.names, self.table.num_classes
        self.in_channels = len(metadata["mean"])
        self.runtime = MODULES[find_format(path) or "onnx"]
        try:
            threads = torch.get_num_threads()
            self.session = self.runtime.open_session(path, threads=threads, precision=precision)
        except Exception as error:  # damaged files raise anything
            raise ValueError(f"{path}: cannot be opened: {first_line(error)}") from error
        self.device_marker = nn.Parameter(torch.zeros(1), requires_grad=False)  # on the CPU, float32
        self.register_buffer("sha256", torch.frombuffer(bytearray(hash_files(path)), dtype=torch.uint8))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(metadata[name]).view(-1, 1, 1), persistent=False)

    def with_precision(self, precision: str) -> Self:
        """Return this file computing in another precision.

        Raises:
            ValueError: its runtime does not have that precision.
        """
        if precision == self.precision:
            return self
        if precision not in self.runtime.PRECISIONS:
            raise ValueError(
                f"evaluation.precision={precision}: {self.path.name} is computed in the file's precision. "
                "Leave the setting out, or export with format=openvino, which has bf16"
            )
        return type(self)(self.path, self.metadata, precision=precision)

    def forward(self, image: Tensor) -> Logits:
        """Return logits (B, K, h, w) at the resolution of the head for a normalized image (B, C, H, W)."""
        height, width = image.shape[2:]
        return Logits(torch.from_numpy(self.run(np.ascontiguousarray(image.numpy()), (height, width))))

    def run(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run images of one size, one by one if the file has a fixed size.

        Returns:
            Class ids (B, H, W) or logits (B, K, h, w), checked against the metadata.

        Raises:
            ValueError: the file has another fixed size, or its runtime cannot run it.
        """
        if self.image_size not in (None, size):
            height, width = self.image_size
            raise ValueError(
                f"{self.path.name} takes images of {height}x{width} only, not {size[0]}x{size[1]}: export "
                "with image_size=null, or with interface=logits and set evaluation=sliding "
                f"evaluation.window=[{height},{width}] evaluation.stride=[{height},{width}] "
                "evaluation.border=pad"
            )
        batches = [images] if self.image_size is None else np.split(images, len(images))
        try:
            output = np.concatenate([self.session(batch) for batch in batches])
        except MemoryError:
            raise
        except Exception as error:  # the runtimes' own errors
            raise ValueError(
                f"{self.path}: cannot be run on images of {size[0]}x{size[1]} ({first_line(error)}). Try to "
                "export for a fixed image_size=[height,width]"
            ) from error
        if not self.is_valid(output, images):
            raise ValueError(
                f"{self.path}: its output, {output.dtype} of shape {output.shape}, contradicts its metadata"
            )
        return output

    def is_valid(self, output: np.ndarray, images: np.ndarray) -> bool:
        """Return whether an output has the shape and values that the metadata promise."""
        return output.ndim == 4 and output.shape[:2] == (len(images), self.num_classes)


class ExportedIdsModel(ExportedModel):
    """A file of ``interface=ids``, for complete images at one scale."""

    def forward(self, image: Tensor) -> Logits:
        """Raise ``ValueError``: the file has no logits."""
        raise ValueError(
            f"{self.path.name} returns class ids only: probabilities and scores need a file exported with "
            "interface=logits"
        )

    def classify(self, image: Tensor, protocol: Protocol) -> Tensor:
        """Return class ids (H, W) of an image (3, H, W) uint8.

        Raises:
            ValueError: the protocol merges several views or windows, which takes logits.
        """
        is_native_size = protocol.scales == (1.0,) and protocol.resize == "factor"
        if not is_native_size or protocol.flip or protocol.window:
            raise ValueError(
                f"evaluation={protocol.name}: {self.path.name} returns class ids, but merging scales, "
                "mirrored copies or windows takes logits. Export with interface=logits, or use "
                "evaluation=whole"
            )
        height, width = image.shape[1:]
        array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return torch.from_numpy(self.run(array[None], (height, width))[0])

    def is_valid(self, output: np.ndarray, images: np.ndarray) -> bool:
        """Return whether an output has the shape and values that the metadata promise."""
        if output.shape != images.shape[:3] or output.dtype.kind not in "iu":
            return False
        return output.min() >= 0 and output.max() < self.num_classes


def load_exported(file: str | Path, *, trust_code: bool = False) -> ExportedModel:
    """Return the network in a file, ready to predict.

    Args:
        file: with a suffix of ``FORMATS``.
        trust_code: open a ``.pt2`` file, which can run any code.

    Raises:
        ValueError: the file is damaged, not trusted, not written by segkit, or rejected by its runtime.
    """
    path = Path(expand_home(str(file)))
    metadata = read_metadata(file)
    if find_format(path) == "torch_export" and not trust_code:
        raise ValueError(
            f"{path}: opening a .pt2 file can run any code in it. If you trust its origin, set "
            "trust_code=true (segkit.load(..., trust_code=True)); .onnx and .xml files need no trust"
        )
    model_type = ExportedIdsModel if metadata["interface"] == "ids" else ExportedModel
    return model_type(path, metadata).eval()
