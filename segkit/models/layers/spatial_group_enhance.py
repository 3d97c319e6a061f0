"""Spatial group-wise enhance (arXiv 1905.09646): scale each position by its similarity to the group's mean.

Channels form groups; x_i is a group's vector at position i:

    g = mean over i of x_i;   c_i = <g, x_i>;   n_i = (c_i - mean of c) / (std of c + 1e-5)
    y_i = x_i * sigmoid(scale * n_i + shift)

The standard deviation is the unbiased one. Each group has a scale (initially 0) and a shift (1). A constant
map has n = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-5


class SpatialGroupEnhance(nn.Module):
    """Attention after a block's last normalization: (B, C, H, W) to the same.

    In thin networks, the groups are the greatest common divisor of channels and groups.
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
        scores = (x * x.mean((3, 4), keepdim=True)).sum(2)  # (B, G, H, W)
        scores = scores.to(torch.promote_types(x.dtype, torch.float32))  # squares overflow half precision
        if self.normalize:
            scores = self.standardize(scores)
        scale = (self.weight * scores + self.bias).sigmoid().to(x.dtype)
        return (x * scale.unsqueeze(2)).flatten(1, 2)

    def standardize(self, similarity: Tensor) -> Tensor:
        """Shift and scale to mean 0 and standard deviation 1 over the positions of each group."""
        centered = similarity - similarity.mean((2, 3), keepdim=True)
        count = max(centered.shape[2] * centered.shape[3] - 1, 1)
        variance = centered.square().sum((2, 3), keepdim=True) / count
        return centered / (variance.clamp(min=1e-30).sqrt() + EPSILON)  # sqrt has no gradient at zero
