"""The Brier score (Brier 1950) as a loss: squared distance of the probabilities from the label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import NonNegativeFloat
from segkit.types import Logits, ignore_index


class Brier(nn.Module):
    """Mean over all pixels that are not ignored."""

    def __init__(self, num_classes: int, aux_weight: float) -> None:
        super().__init__()
        self.num_classes, self.aux_weight = num_classes, aux_weight
        self.ignored = ignore_index(num_classes)  # 255, or more where there are more classes

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """Return named losses whose sum is the loss."""
        losses = {"main": self.compute_mean(logits.main, label)}
        if logits.aux is not None:
            losses["aux"] = self.aux_weight * self.compute_mean(logits.aux, label)
        return losses

    def compute_mean(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the mean for the logits (B, K, H, W) of one head."""
        scored = label != self.ignored
        expected = F.one_hot(label.long().where(scored, 0), self.num_classes).movedim(-1, 1)
        distance = (logits.float().softmax(1) - expected).square().sum(1)
        return (distance * scored).sum() / scored.sum().clamp(min=1)

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the number of pixels that are not ignored, float64."""
        return (label != self.ignored).sum(dtype=torch.float64)


def build(num_classes: int, *, aux_weight: NonNegativeFloat = 0.2) -> Brier:
    """Return the loss."""
    return Brier(num_classes, aux_weight)
