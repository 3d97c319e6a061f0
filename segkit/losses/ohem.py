"""Online hard example mining: cross-entropy of the pixels that are still wrong (Shrivastava et al. 2016).

As it is done for Cityscapes (HRNet, mmsegmentation): the pixels whose own class has less than a threshold's
probability, or so many of the lowest probability as are to be kept at least.
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
    """Mean cross-entropy over the hard pixels among those that are scored.

    What is hard, and how many pixels that are, depends on the logits of all that are looked at together. So a
    batch in parts gives another loss than the whole batch: each part keeps its own hardest, and parts are
    weighted by their scored pixels.
    """

    def __init__(
        self, class_weights: Tensor, *, aux_weight: float, threshold: float, min_kept: int | None
    ) -> None:
        super().__init__(class_weights, aux_weight=aux_weight)
        self.cross_entropy = CrossEntropy(class_weights)
        self.threshold, self.min_kept = threshold, min_kept

    def mean(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """Of one head; (B, K, H, W) logits, (B, H, W) target."""
        return self.cross_entropy.mean(logits, target.where(self.hard(logits, target), self.ignored))

    @torch.no_grad()
    def hard(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """Which pixels are kept, (B, H, W) bool."""
        scored = target != self.ignored
        known = torch.cat(
            [pixel_cross_entropy(chunk).neg().exp() for chunk in iterate_chunks(logits, target)]
        ).view_as(target)
        known = known.where(scored, torch.inf)  # the own class's probability
        lowest = known.flatten().sort().values
        kept = target.numel() // 5 if self.min_kept is None else self.min_kept * len(target)
        least = lowest[min(max(kept, 1), target.numel()) - 1]
        return scored & ((known < self.threshold) | (known <= least))


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    threshold: Fraction = 0.7,
    min_kept: PositiveInt | None = None,
    class_weights: PathStr | list[NonNegativeFloat] | None = None,
) -> Ohem:
    """Cross-entropy of the hard pixels, for data where most pixels soon are easy.

    Args:
        num_classes: K.
        aux_weight: of the auxiliary head.
        threshold: probability of the own class below which a pixel is hard.
        min_kept: pixels kept at least, for each image of the batch, the hardest of the whole batch; None for
            a fifth of all. For Cityscapes, where a crop has 524,288 pixels or more, 100,000 is usual.
        class_weights: K numbers, or a text file with one a line.

    Raises:
        ValueError: there are not K weights, or the file cannot be read as numbers.
    """
    return Ohem(
        read_class_weights(class_weights, num_classes),
        aux_weight=aux_weight,
        threshold=threshold,
        min_kept=min_kept,
    )
