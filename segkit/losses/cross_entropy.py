"""Pixel-wise cross-entropy."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.config import Fraction, NonNegativeFloat, PathStr
from segkit.losses._chunks import Chunk
from segkit.losses._class_weights import read_class_weights
from segkit.losses._loss import PixelLoss
from segkit.runtime import precision
from segkit.types import ignore_index


class CrossEntropy(PixelLoss):
    """Mean cross-entropy over the scored pixels, or over all pixels."""

    def __init__(
        self,
        class_weights: Tensor,
        *,
        aux_weight: float = 0.0,
        label_smoothing: float = 0.0,
        average: Literal["scored", "all"] = "scored",
    ) -> None:
        super().__init__(class_weights, aux_weight=aux_weight)
        self.label_smoothing, self.average = label_smoothing, average

    def sum_loss(self, chunk: Chunk) -> Tensor:
        """Return the sum over a chunk's pixels."""
        weights = self.class_weights.to(chunk.logits.dtype)
        return pixel_cross_entropy(chunk, weight=weights, label_smoothing=self.label_smoothing).sum()

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the sum of the class weights over the scored pixels, or the number of all pixels."""
        if self.average == "all":
            device = self.class_weights.device
            return torch.full((), label.numel(), dtype=precision.widest_float_dtype(device), device=device)
        return super().compute_weight(label)


def pixel_cross_entropy(
    chunk: Chunk, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of each pixel, (n,); 0 where it is ignored."""
    logits, target = chunk.logits[None], chunk.target[None]
    # CUDA sums rows in a fixed order, and resized logits are stored as rows
    if torch.are_deterministic_algorithms_enabled() or chunk.logits.stride(0) == 1:
        logits, target = chunk.logits.T, chunk.target
    losses = F.cross_entropy(
        logits,
        target,
        weight,
        ignore_index=ignore_index(len(chunk.logits)),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.flatten()


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    label_smoothing: Fraction = 0.0,
    class_weights: PathStr | list[NonNegativeFloat] | None = None,
    average: Literal["scored", "all"] = "scored",
) -> CrossEntropy:
    """Build the loss of the published recipes; ``conf/loss/cross_entropy.yaml`` describes the settings.

    ``average`` "scored" is PyTorch's mean, "all" mmsegmentation's ``avg_non_ignore=False``.
    """
    return CrossEntropy(
        read_class_weights(class_weights, num_classes),
        aux_weight=aux_weight,
        label_smoothing=label_smoothing,
        average=average,
    )
