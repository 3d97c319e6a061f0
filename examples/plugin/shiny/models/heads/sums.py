"""A head that adds up what a 1x1 convolution says of each stage, at the size of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Sums(nn.Module):
    """One 1x1 convolution a stage."""

    def __init__(self, in_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in in_channels)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the first."""
        total = self.readers[0](stages[0])
        for reader, stage in zip(self.readers[1:], stages[1:], strict=True):
            total = total + F.interpolate(reader(stage), total.shape[2:])
        return total


def build(in_channels: Sequence[int], num_classes: int) -> Sums:
    """For any backbone."""
    return Sums(in_channels, num_classes)
