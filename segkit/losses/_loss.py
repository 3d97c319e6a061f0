"""Base classes of losses: a part for each head, and how much a label weighs.

Training multiplies the loss of each micro-batch by its share of the batch's weight, over all micro-batches
and processes. A mean whose divisor is ``compute_weight`` is therefore the same however a batch is divided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkit.losses._chunks import Chunk, HeadLogits, chunked_sum
from segkit.runtime import precision
from segkit.types import Logits, ignore_index


class Loss(nn.Module):
    """A loss of main and auxiliary logits; subclasses define ``compute_mean`` and ``compute_weight``."""

    takes_head_logits = True  # and resizes them; otherwise the logits have the size of the label

    def __init__(self, num_classes: int, *, aux_weight: float) -> None:
        super().__init__()
        self.ignore_index, self.aux_weight = ignore_index(num_classes), aux_weight

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """Return the weighted loss of each head; the loss is their sum.

        Args:
            logits: (B, K, H, W) each, or (B, K, h, w), which are resized to the label.
            label: (B, H, W), any integer type.
        """
        target = label.long()
        parts = {"main": self.compute_mean(HeadLogits(logits.main, logits.align_corners), target)}
        if logits.aux is not None:
            aux = self.compute_mean(HeadLogits(logits.aux, logits.align_corners), target)
            parts["aux"] = self.aux_weight * aux
        return parts

    def compute_mean(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return the loss of one head; 0 with gradient 0 if all pixels are ignored."""
        raise NotImplementedError

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the divisor of the mean, which may depend on the label only; a float64 scalar."""
        raise NotImplementedError


class PixelLoss(Loss):
    """A mean over the scored pixels, weighted by class."""

    class_weights: Tensor
    label_weights: Tensor  # by label value; 0 for ignored pixels

    def __init__(self, class_weights: Tensor, *, aux_weight: float) -> None:
        super().__init__(len(class_weights), aux_weight=aux_weight)
        self.register_buffer("class_weights", class_weights, persistent=False)
        label_weights = torch.zeros(self.ignore_index + 1)
        label_weights[: len(class_weights)] = class_weights
        self.register_buffer("label_weights", label_weights, persistent=False)

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the sum of the class weights over the scored pixels, in the widest float of the device."""
        device = self.label_weights.device
        return self.label_weights[label.to(device).int()].sum(dtype=precision.widest_float_dtype(device))

    def compute_mean(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return the loss of one head, the sum of ``sum_loss`` divided by the weight of the labels."""
        total = chunked_sum(head, target, self.sum_loss).sum()
        return total / self.compute_weight(target).clamp(min=1e-9).to(total.dtype)

    def sum_loss(self, chunk: Chunk) -> Tensor:
        """Return the weighted sum over a chunk's pixels."""
        raise NotImplementedError


class RegionLoss(Loss):
    """A mean over the images that have a scored pixel."""

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the number of images with a scored pixel, in the widest float of the device."""
        dtype = precision.widest_float_dtype(label.device)
        return (label != self.ignore_index).flatten(1).any(1).sum(dtype=dtype)
