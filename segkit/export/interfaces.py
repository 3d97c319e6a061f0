"""What an exported file takes and gives.

* ``ids``: image (B, H, W, 3) uint8 RGB to class ids (B, H, W), uint8, of more than 255 classes int16;
  normalization, resizing, argmax inside.
* ``logits``: normalized image (B, 3, H, W) float32 to logits (B, K, h, w) float32 at the resolution of the
  head, to be merged over views and windows, and resized bilinearly by the file's ``align_corners``.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from segkit.inference.preparation import make_portable
from segkit.models.network import Segmenter
from segkit.types import class_id_dtype


class ExportKind(NamedTuple):
    """What file is wanted."""

    format: Literal["onnx", "openvino", "torch_export"] = "onnx"
    interface: Literal["ids", "logits"] = "ids"
    image_size: tuple[int, int] | None = None  # height and width; None for any
    precision: Literal["fp32", "fp16", "int8"] = "fp32"


class LogitsNetwork(nn.Module):
    """Backbone and head."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, image: Tensor) -> Tensor:
        """Normalized image (B, 3, H, W) float32 to logits (B, K, h, w) float32."""
        stages = self.network.backbone(image.to(next(self.network.parameters()).dtype))
        return self.network.head(stages).float()

    def example(self, height: int, width: int, *, batch: int) -> Tensor:
        """An image of the kind that goes in."""
        return torch.rand(batch, self.network.in_channels, height, width)


class IdsNetwork(nn.Module):
    """Backbone and head between normalization and argmax."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.logits, self.network = LogitsNetwork(network), network
        self.num_classes = network.num_classes
        self.kind = getattr(torch, class_id_dtype(network.num_classes))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, H, W, 3) uint8 RGB to class ids (B, H, W)."""
        pixels = image.permute(0, 3, 1, 2)
        logits = self.network.resize(self.logits(self.network.normalize(pixels)), pixels)
        return logits.argmax(1).to(self.kind)

    def example(self, height: int, width: int, *, batch: int) -> Tensor:
        """An image of the kind that goes in."""
        return torch.randint(0, 256, (batch, height, width, self.network.in_channels), dtype=torch.uint8)


def make_export_network(model: Segmenter, kind: ExportKind) -> LogitsNetwork | IdsNetwork:
    """A copy of the model that takes and gives what a kind of file does; ``int8`` is made of float32."""
    network = make_portable(model)
    if kind.precision == "fp16" and kind.format != "openvino":  # which stores halves and computes as it likes
        mean, std = network.mean, network.std
        network.half()
        network.mean, network.std = mean, std
    made = (IdsNetwork if kind.interface == "ids" else LogitsNetwork)(copy.deepcopy(network))
    return made.eval().requires_grad_(requires_grad=False)
