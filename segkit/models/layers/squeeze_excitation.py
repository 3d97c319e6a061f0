"""Squeeze-and-excitation (arXiv 1709.01507): scale each channel by a function of the global mean.

z = mean over H x W of x;   s = sigmoid(W2 relu(W1 z));   y = s * x
"""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Attention after a block's last normalization: (B, C, H, W) to the same; both matrices have a bias."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return x * self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
