"""Dice loss: one minus the overlap of probabilities and label, class by class (Milletari et al. 2016).

1 - mean over the classes k of the label of (2 sum p_k g_k + s) / (sum p_k + sum g_k + s), with p the softmax
probabilities, g the label as 0 and 1, s a smoothing number; sums are over the scored pixels.
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
    """Dice loss over each image alone, or over all images of a part of the batch together.

    Over each image it is a mean over images, so it is the same however a batch is divided. Over the batch it
    is not: a ratio of sums over all images is no mean of such ratios over parts.
    """

    def __init__(
        self, num_classes: int, *, aux_weight: float, over: Literal["image", "batch"], smooth: float
    ) -> None:
        super().__init__(num_classes, aux_weight=aux_weight)
        self.over, self.smooth = over, smooth

    def mean(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """Of one head; (B, K, H, W) logits, (B, H, W) target."""
        sums = chunked_sum(logits, target, overlaps)  # (B, 3, K)
        if self.over == "batch":
            sums = sums.sum(0, keepdim=True)
        both, predicted, true = sums.unbind(1)  # (B, K) each
        there = true > 0
        size = (predicted + true + self.smooth).where(there, 1)
        lost = (1 - (2 * both + self.smooth) / size).where(there, 0)
        classes = there.sum(1)
        by_image = lost.sum(1) / classes.clamp(min=1)
        return by_image.sum() / (classes > 0).sum().clamp(min=1)


def overlaps(chunk: Chunk) -> Tensor:
    """Sums over a chunk's scored pixels of p g, p and g, for each class, (3, K)."""
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
    """Dice loss, in which a small class counts as much as a large one; best beside cross-entropy.

    Args:
        num_classes: K.
        aux_weight: of the auxiliary head.
        over: the pixels whose overlap is taken together; those of each image, or of all images that go
            through the network together.
        smooth: pixels added to numerator and denominator, so that one pixel does not decide.
    """
    return Dice(num_classes, aux_weight=aux_weight, over=over, smooth=smooth)
