"""Interfaces of exported files.

* ``ids``: image (B, H, W, 3) uint8 RGB to class ids (B, H, W), uint8, or int16 for more than 255 classes;
  includes normalization, resizing and argmax.
* ``logits``: normalized image (B, 3, H, W) float32 to logits (B, K, h, w) float32 at the resolution of the
  head, to be merged over views and windows and resized bilinearly with the file's ``align_corners``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segkit.inference.preparation import make_portable
from segkit.models.network import Segmenter
from segkit.types import class_id_dtype

Run = Callable[[np.ndarray], np.ndarray]  # a batch to class ids or logits


class ExportKind(NamedTuple):
    """Format, interface, size and precision of an exported file."""

    format: Literal["onnx", "openvino", "torch_export"] = "onnx"
    interface: Literal["ids", "logits"] = "ids"
    image_size: tuple[int, int] | None = None  # height and width; None for any
    precision: Literal["fp32", "fp16", "int8"] = "fp32"


class LogitsNetwork(nn.Module):
    """Backbone and head."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K, h, w) float32 of a normalized image (B, 3, H, W) float32."""
        stages = self.network.backbone(image.to(next(self.network.parameters()).dtype))
        return self.network.head(stages).float()

    def make_example(self, height: int, width: int, *, batch: int) -> Tensor:
        """Return a random input."""
        return torch.rand(batch, self.network.in_channels, height, width)


class IdsNetwork(LogitsNetwork):
    """Normalization, backbone, head, resizing and argmax."""

    def forward(self, image: Tensor) -> Tensor:
        """Return class ids (B, H, W) of an image (B, H, W, 3) uint8 RGB."""
        pixels = image.permute(0, 3, 1, 2)
        logits = self.network.resize(super().forward(self.network.normalize(pixels)), pixels)
        return logits.argmax(1).to(getattr(torch, class_id_dtype(self.network.num_classes)))

    def make_example(self, height: int, width: int, *, batch: int) -> Tensor:
        """Return a random input."""
        return torch.randint(0, 256, (batch, height, width, self.network.in_channels), dtype=torch.uint8)


def make_export_network(model: Segmenter, kind: ExportKind) -> LogitsNetwork:
    """Return a copy of the model with the interface and precision of an export; int8 is made of float32."""
    network = make_portable(model)
    if kind.precision == "fp16" and kind.format != "openvino":  # OpenVINO converts to fp16 when it saves
        mean, std = network.mean, network.std
        network.half()
        network.mean, network.std = mean, std
    network_type = IdsNetwork if kind.interface == "ids" else LogitsNetwork
    return network_type(network).eval().requires_grad_(requires_grad=False)
