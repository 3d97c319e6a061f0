"""CBAM, the convolutional block attention module (arXiv 1807.06521): scale each channel, then each position.

    F'  = F * sigmoid(MLP(mean over H x W of F) + MLP(max over H x W of F))       one MLP, W1 relu(W0 .)
    F'' = F' * sigmoid(conv([max over C of F'; mean over C of F']))               7x7

As in the authors' code, both matrices have a bias; the 7x7 has none and is normalized.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvolutionalAttention(nn.Module):
    """Attention after a block's last normalization: (B, C, H, W) to the same."""

    def __init__(self, channels: int, *, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(inner, channels, 1)
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)  # as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel, then each position."""
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)  # (B, C, 1, 1)
        x = x * (self.mlp(mean) + self.mlp(peak)).sigmoid()
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * self.bn(self.conv(pooled)).sigmoid()

    def mlp(self, pooled: Tensor) -> Tensor:
        """Apply the MLP over channels, (B, C, 1, 1) to the same."""
        return self.fc2(self.relu(self.fc1(pooled)))
