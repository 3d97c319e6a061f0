"""Focal loss: cross-entropy that turns from the pixels that are already right (Lin et al. 2017, equation 5).

For each scored pixel -w_t (1 - p_t)^gamma log p_t, with p_t the softmax probability of its class t.
"""

from __future__ import annotations

from torch import Tensor

from segkit.config import NonNegativeFloat, PathStr
from segkit.losses._chunks import Chunk, HeadLogits, chunked_sum
from segkit.losses._class_weights import read_class_weights
from segkit.losses._loss import PixelLoss
from segkit.losses.cross_entropy import pixel_cross_entropy


class Focal(PixelLoss):
    """Mean focal loss over the pixels that are scored; with ``gamma`` 0 the cross-entropy."""

    def __init__(self, class_weights: Tensor, *, aux_weight: float, gamma: float) -> None:
        super().__init__(class_weights, aux_weight=aux_weight)
        self.gamma = gamma

    def mean(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """Of one head; (B, K, H, W) logits, (B, H, W) target."""
        return self.divided(chunked_sum(logits, target, self.total).sum(), target)

    def total(self, chunk: Chunk) -> Tensor:
        """Sum over a chunk's pixels."""
        surprise = pixel_cross_entropy(chunk)  # -log p_t
        # 1 - p_t; rounding may leave -log p_t a hair below 0, and the slope of 0^gamma is infinite below 1
        doubt = (-surprise.neg().expm1()).clamp(min=1e-12)
        weight = self.weight_of_label.to(surprise.dtype)[chunk.target]
        return (weight * doubt**self.gamma * surprise).sum()


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    gamma: NonNegativeFloat = 2.0,
    class_weights: PathStr | list[NonNegativeFloat] | None = None,
) -> Focal:
    """Focal loss over the softmax, for classes that are few and hard.

    Args:
        num_classes: K.
        aux_weight: of the auxiliary head.
        gamma: how fast a pixel that is right loses weight; 0 is cross-entropy, 2 the paper's choice.
        class_weights: the paper's alpha: K numbers, or a text file with one a line.

    Raises:
        ValueError: there are not K weights, or the file cannot be read as numbers.
    """
    return Focal(read_class_weights(class_weights, num_classes), aux_weight=aux_weight, gamma=gamma)
