"""Fully convolutional head (arXiv 1411.4038) on any stage; also the auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.convolutions import make_classifier


class FCNHead(nn.Module):
    """3x3, BN, ReLU, dropout, 1x1 to the classes, with the parameter names of PyTorch-Encoding."""

    def __init__(self, conv5: nn.Sequential, stage: int) -> None:
        super().__init__()
        self.conv5, self.stage = conv5, stage

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the head's own stage."""
        return self.conv5(stages[self.stage - 1])


def build(
    in_channels: Sequence[int],
    num_classes: int,
    *,
    stage: Literal[1, 2, 3, 4] = 4,
    width: PositiveInt | None = None,
    dropout: Fraction = 0.1,
) -> FCNHead:
    """Build an FCN head on a stage; ``width`` defaults to a quarter of its channels."""
    channels = in_channels[stage - 1]
    return FCNHead(make_classifier(channels, width or channels // 4, num_classes, dropout), stage)
