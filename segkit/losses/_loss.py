"""What every loss is: a part for each head, and how much a label counts.

A training multiplies each part of a batch by its share of the whole batch's weight, over all parts and
processes. A mean whose divisor ``weight`` tells is therefore the same however a batch is divided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkit.losses._chunks import HeadLogits
from segkit.runtime import precision
from segkit.types import Logits, ignore_index


class Loss(nn.Module):
    """A loss of the main and the auxiliary logits; a kind of loss says ``mean`` and ``weight``."""

    takes_head_logits = True  # and resizes them itself, some lines at a time

    def __init__(self, num_classes: int, *, aux_weight: float) -> None:
        super().__init__()
        self.ignored, self.aux_weight = ignore_index(num_classes), aux_weight

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """The weighted part of each head; the loss is their sum.

        Args:
            logits: (B, K, H, W) each, or (B, K, h, w), which stand for what resizing makes of them.
            label: (B, H, W), any integer type.
        """
        target = label.long()
        parts = {"main": self.mean(match_label_size(logits.main, logits, target), target)}
        if logits.aux is not None:
            parts["aux"] = self.aux_weight * self.mean(match_label_size(logits.aux, logits, target), target)
        return parts

    def mean(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """The loss of one head; 0 with gradient 0 where all pixels are ignored."""
        raise NotImplementedError

    def weight(self, label: Tensor) -> Tensor:
        """The divisor of the mean, which may depend on the label alone; a float64 scalar."""
        raise NotImplementedError


def match_label_size(head: Tensor, logits: Logits, target: Tensor) -> Tensor | HeadLogits:
    """The logits of one head, to be resized where they are not as large as the target."""
    return head if head.shape[2:] == target.shape[1:] else HeadLogits(head, logits.align_corners)


class PixelLoss(Loss):
    """A mean over the pixels that are scored, weighted by the classes' weights."""

    class_weights: Tensor
    weight_of_label: Tensor  # the same for every label value, 0 where it is ignored

    def __init__(self, class_weights: Tensor, *, aux_weight: float) -> None:
        super().__init__(len(class_weights), aux_weight=aux_weight)
        self.register_buffer("class_weights", class_weights, persistent=False)
        by_label = torch.zeros(self.ignored + 1)
        by_label[: len(class_weights)] = class_weights
        self.register_buffer("weight_of_label", by_label, persistent=False)

    def weight(self, label: Tensor) -> Tensor:
        """Sum of the class weights over the scored pixels; a scalar, float64 where its device has it."""
        device = self.weight_of_label.device
        return self.weight_of_label[label.to(device).int()].sum(dtype=precision.widest_float_dtype(device))

    def divided(self, total: Tensor, target: Tensor) -> Tensor:
        """A sum over pixels by the weight of their labels."""
        return total / self.weight(target).clamp(min=1e-9).to(total.dtype)  # all ignored: 0, with gradient 0


class RegionLoss(Loss):
    """A mean over images; one without a scored pixel does not count."""

    def weight(self, label: Tensor) -> Tensor:
        """How many images have a scored pixel; a scalar, float64 where the device has that."""
        exact = precision.widest_float_dtype(label.device)
        return (label != self.ignored).flatten(1).any(1).sum(dtype=exact)
