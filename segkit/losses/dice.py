"""Dice loss: one minus the overlap of probabilities and label of each class (Milletari et al. 2016).

1 - mean over the classes k of the label of (2 sum p_k g_k + s) / (sum p_k + sum g_k + s), with p the softmax
probabilities, g the label as 0 and 1, s the smoothing; sums are over the scored pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segkit.config import NonNegativeFloat
from segkit.losses._chunks import Chunk, HeadLogits, chunked_sum
from segkit.losses._loss import RegionLoss
from segkit.types import ignore_index


class Dice(RegionLoss):
    """Dice loss over each image, or over all images of a micro-batch.

    Over images it is a mean, so it does not depend on how a batch is divided. Over a batch it does.
    """

    def __init__(
        self, num_classes: int, *, aux_weight: float, over: Literal["image", "batch"], smooth: float
    ) -> None:
        super().__init__(num_classes, aux_weight=aux_weight)
        self.over, self.smooth = over, smooth

    def compute_mean(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return the loss of one head."""
        sums = chunked_sum(head, target, sum_overlaps)  # (B, 3, K)
        if self.over == "batch":
            sums = sums.sum(0, keepdim=True)
        both, predicted, true = sums.unbind(1)  # (B, K) each
        is_present = true > 0
        size = (predicted + true + self.smooth).where(is_present, 1)
        losses = (1 - (2 * both + self.smooth) / size).where(is_present, 0)
        classes = is_present.sum(1)
        image_losses = losses.sum(1) / classes.clamp(min=1)
        return image_losses.sum() / (classes > 0).sum().clamp(min=1)


def sum_overlaps(chunk: Chunk) -> Tensor:
    """Return the sums of p g, p and g over a chunk's scored pixels for each class, (3, K)."""
    scored = chunk.target != ignore_index(len(chunk.logits))
    probability = chunk.logits.softmax(0).where(scored, 0)  # (K, n)
    classes = torch.arange(len(probability), device=probability.device)
    true = chunk.target == classes[:, None]
    both, size = probability.where(true, 0).sum(1), true.sum(1)
    return torch.stack([both, probability.sum(1), size.to(both.dtype)])


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    over: Literal["image", "batch"] = "image",
    smooth: NonNegativeFloat = 1.0,
) -> Dice:
    """Build a Dice loss; ``smooth`` pixels are added to numerator and denominator."""
    return Dice(num_classes, aux_weight=aux_weight, over=over, smooth=smooth)
