"""A head that sums 1x1 convolutions of all stages at the size of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Sums(nn.Module):
    """One 1x1 convolution per stage."""

    def __init__(self, in_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in in_channels)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, h, w) at the size of the first stage."""
        total = self.convs[0](stages[0])
        for conv, stage in zip(self.convs[1:], stages[1:], strict=True):
            total = total + F.interpolate(conv(stage), total.shape[2:])
        return total


def build(in_channels: Sequence[int], num_classes: int) -> Sums:
    """Return the head."""
    return Sums(in_channels, num_classes)
