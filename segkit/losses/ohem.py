"""Online hard example mining: cross-entropy of the hard pixels only (Shrivastava et al. 2016).

As for Cityscapes (HRNet, mmsegmentation), a pixel is hard if the probability of its class is below a
threshold, or among the ``min_kept`` lowest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.config import Fraction, NonNegativeFloat, PathStr, PositiveInt
from segkit.losses._chunks import HeadLogits, iterate_chunks
from segkit.losses._class_weights import read_class_weights
from segkit.losses._loss import PixelLoss
from segkit.losses.cross_entropy import CrossEntropy, pixel_cross_entropy


class Ohem(PixelLoss):
    """Mean cross-entropy over the hard pixels.

    The loss depends on how a batch is divided: each micro-batch selects its own hardest pixels, and
    micro-batches are weighted by their scored pixels.
    """

    def __init__(
        self, class_weights: Tensor, *, aux_weight: float, threshold: float, min_kept: int | None
    ) -> None:
        super().__init__(class_weights, aux_weight=aux_weight)
        self.cross_entropy = CrossEntropy(class_weights)
        self.threshold, self.min_kept = threshold, min_kept

    def compute_mean(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over the hard pixels of one head."""
        is_hard = self.find_hard(head, target)
        return self.cross_entropy.compute_mean(head, target.where(is_hard, self.ignore_index))

    @torch.no_grad()
    def find_hard(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return which pixels are hard, (B, H, W) bool: those with a low probability of their class."""
        scored = target != self.ignore_index
        chunks = iterate_chunks(head, target)
        probability = torch.cat([pixel_cross_entropy(chunk).neg().exp() for chunk in chunks])
        probability = probability.view_as(target).where(scored, torch.inf)  # of the pixel's class
        count = target.numel() // 5
        if self.min_kept is not None:
            count = self.min_kept * len(target)
        count = min(max(count, 1), target.numel())
        highest_kept = probability.flatten().sort().values[count - 1]
        return scored & ((probability < self.threshold) | (probability <= highest_kept))


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    threshold: Fraction = 0.7,
    min_kept: PositiveInt | None = None,
    class_weights: PathStr | list[NonNegativeFloat] | None = None,
) -> Ohem:
    """Build a cross-entropy of the hard pixels; ``conf/loss/ohem.yaml`` describes the settings."""
    weights = read_class_weights(class_weights, num_classes)
    return Ohem(weights, aux_weight=aux_weight, threshold=threshold, min_kept=min_kept)
