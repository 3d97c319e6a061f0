"""Spatial group-wise enhance (arXiv 1905.09646): every position scaled by its likeness to its group's mean.

Channels form groups; x_i is a group's vector at position i:

    g = mean over i of x_i;   c_i = <g, x_i>;   n_i = (c_i - mean of c) / (deviation of c + 1e-5)
    y_i = x_i * sigmoid(scale * n_i + shift)

The deviation is the unbiased one; one scale (0 at first) and shift (1) per group. A constant map has n = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-5


class SpatialGroupEnhance(nn.Module):
    """Attention after a block's last normalization: (B, C, H, W) to the same.

    Where a thin network has fewer channels than groups, there are as many groups as divide both.
    """

    def __init__(
        self,
        channels: int,
        groups: int = 64,
        *,
        scale: float = 0.0,
        shift: float = 1.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.groups, self.normalize = math.gcd(channels, groups), normalize
        self.weight = nn.Parameter(torch.full((1, self.groups, 1, 1), float(scale)))
        self.bias = nn.Parameter(torch.full((1, self.groups, 1, 1), float(shift)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each position of each group."""
        x = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        likeness = (x * x.mean((3, 4), keepdim=True)).sum(2)  # (B, G, H, W)
        likeness = likeness.to(torch.promote_types(x.dtype, torch.float32))  # squares leave half precision
        scores = self.standardized(likeness) if self.normalize else likeness
        scale = (self.weight * scores + self.bias).sigmoid().to(x.dtype)
        return (x * scale.unsqueeze(2)).flatten(1, 2)

    def standardized(self, likeness: Tensor) -> Tensor:
        """Of mean 0 and deviation 1 over the positions of each group: (B, G, H, W) to the same."""
        centered = likeness - likeness.mean((2, 3), keepdim=True)
        others = max(centered.shape[2] * centered.shape[3] - 1, 1)
        variance = centered.square().sum((2, 3), keepdim=True) / others
        return centered / (variance.clamp(min=1e-30).sqrt() + EPSILON)  # the root has no slope at zero
