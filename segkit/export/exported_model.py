"""Exported files as networks, used and scored by the same code as trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config.values import expand_home
from segkit.data.label_map import LabelMap
from segkit.export.files import find_format, hash_files, import_format
from segkit.export.metadata import read_metadata
from segkit.inference.protocol import Protocol
from segkit.models.network import Segmenter
from segkit.runtime.text import first_line
from segkit.types import Logits


class ExportedModel(nn.Module):
    """A file and its runtime, with the interface of a segmenter that inference uses.

    Attributes:
        sha256: of the file, in place of weights, to distinguish evaluations.
    """

    mean: Tensor
    std: Tensor
    normalize = Segmenter.normalize

    def __init__(
        self, path: Path, num_classes: int, metadata: dict[str, Any], *, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.path, self.num_classes, self.metadata = path, num_classes, metadata
        self.precision = precision
        self.align_corners, self.image_size = metadata["align_corners"], metadata["image_size"]
        self.class_names = LabelMap.from_plain(metadata["classes"]).names
        session_type = import_format(find_format(path) or "onnx").Session
        self.session = session_type(path, threads=torch.get_num_threads(), precision=precision)
        self.in_channels = len(metadata["mean"])
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
        if precision not in self.session.precisions:
            raise ValueError(
                f"evaluation.precision={precision}: {self.session.runtime} computes {self.path.name} in the "
                "file's precision. Leave the setting out, or export with format=openvino, which has bf16"
            )
        return type(self)(self.path, self.num_classes, self.metadata, precision=precision)

    def run(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run images of one size, one by one if the file has a fixed size.

        Raises:
            ValueError: the file has another fixed size.
        """
        if self.image_size is None:
            return self._run_batch(images)
        if list(size) != list(self.image_size):
            raise ValueError(
                f"{self.path.name} takes images of {self.image_size[0]}x{self.image_size[1]} only, not "
                f"{size[0]}x{size[1]}: {self._suggest_for_other_sizes()}"
            )
        return np.concatenate([self._run_batch(image[None]) for image in images])

    def _suggest_for_other_sizes(self) -> str:
        raise NotImplementedError

    def _is_valid_output(self, output: np.ndarray, images: np.ndarray) -> bool:
        raise NotImplementedError

    def _run_batch(self, images: np.ndarray) -> np.ndarray:
        """Return class ids (B, H, W) or logits (B, K, h, w), checked against the metadata."""
        try:
            output = self.session(images)
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # the runtimes' own errors
            reason = first_line(error)
            raise ValueError(f"{self.path}: {self.session.runtime} cannot run it ({reason})") from error
        if not self._is_valid_output(output, images):
            raise ValueError(
                f"{self.path}: its output, {output.dtype} of shape {output.shape}, contradicts its metadata"
            )
        return output


class ExportedLogitsModel(ExportedModel):
    """A file of ``interface=logits``, for every protocol."""

    def forward(self, image: Tensor) -> Logits:
        """Return logits (B, K, h, w) at the resolution of the head for a normalized image (B, C, H, W)."""
        height, width = image.shape[2:]
        return Logits(torch.from_numpy(self.run(np.ascontiguousarray(image.numpy()), (height, width))))

    def _suggest_for_other_sizes(self) -> str:
        size = f"[{self.image_size[0]},{self.image_size[1]}]"
        return (
            f"for any image size use evaluation=sliding evaluation.window={size} evaluation.stride={size} "
            "evaluation.border=pad"
        )

    def _is_valid_output(self, output: np.ndarray, images: np.ndarray) -> bool:
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

    def _suggest_for_other_sizes(self) -> str:
        return "export with interface=logits for windows of that size, or with image_size=null for any size"

    def _is_valid_output(self, output: np.ndarray, images: np.ndarray) -> bool:
        if output.shape != images.shape[:3] or output.dtype.kind not in "iu":
            return False
        return output.min() >= 0 and output.max() < self.num_classes


def load_exported(
    file: str | Path, num_classes: int, metadata: dict[str, Any] | None = None, *, trust_code: bool = False
) -> ExportedModel:
    """Return the network in a file, ready to predict.

    Args:
        file: with a suffix of ``FORMATS``.
        num_classes: K.
        metadata: from ``read_metadata``, if read already.
        trust_code: open a ``.pt2`` file, which can run any code.

    Raises:
        ValueError: the file is damaged, not trusted, not written by segkit, or rejected by its runtime.
    """
    path = Path(expand_home(str(file)))
    metadata = metadata or read_metadata(file)
    if find_format(path) == "torch_export" and not trust_code:
        raise ValueError(
            f"{path}: opening a .pt2 file can run any code in it. If you trust its origin, set "
            "trust_code=true (segkit.load(..., trust_code=True)); .onnx and .xml files need no trust"
        )
    if metadata["interface"] == "ids":
        model_type = ExportedIdsModel
    else:
        model_type = ExportedLogitsModel
    return model_type(path, num_classes, metadata).eval()
