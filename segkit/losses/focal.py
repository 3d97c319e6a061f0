"""Focal loss: cross-entropy with less weight on easy pixels (Lin et al. 2017, equation 5).

For each scored pixel -w_t (1 - p_t)^gamma log p_t, with p_t the softmax probability of its class t.
"""

from __future__ import annotations

from torch import Tensor

from segkit.config import NonNegativeFloat, PathStr
from segkit.losses._chunks import Chunk
from segkit.losses._class_weights import read_class_weights
from segkit.losses._loss import PixelLoss
from segkit.losses.cross_entropy import pixel_cross_entropy


class Focal(PixelLoss):
    """Mean focal loss over the scored pixels; cross-entropy if ``gamma`` is 0."""

    def __init__(self, class_weights: Tensor, *, aux_weight: float, gamma: float) -> None:
        super().__init__(class_weights, aux_weight=aux_weight)
        self.gamma = gamma

    def sum_loss(self, chunk: Chunk) -> Tensor:
        """Return the sum over a chunk's pixels."""
        negative_log = pixel_cross_entropy(chunk)  # -log p_t
        # 1 - p_t; rounding may leave -log p_t just below 0, and 0^gamma has an infinite slope for gamma < 1
        error = (-negative_log.neg().expm1()).clamp(min=1e-12)
        weight = self.label_weights.to(negative_log.dtype)[chunk.target]
        return (weight * error**self.gamma * negative_log).sum()


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    gamma: NonNegativeFloat = 2.0,
    class_weights: PathStr | list[NonNegativeFloat] | None = None,
) -> Focal:
    """Build a focal loss, for rare and hard classes; ``class_weights`` are the paper's alpha."""
    return Focal(read_class_weights(class_weights, num_classes), aux_weight=aux_weight, gamma=gamma)
