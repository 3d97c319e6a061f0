"""Selective kernel (SKNet, arXiv 1903.06586): branches of growing dilation, weighted per channel.

    U_m = relu(BN(conv of branch m));   s = mean over H x W of sum_m U_m
    z = relu(BN(W s)) with max(C / 16, 32) values;   a_m = softmax over m of A_m z;   V = sum_m a_m * U_m

Branch m is a grouped 3x3 with dilation m (2 instead of a 5x5, as in the paper).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.models.layers.blend import weighted_sum
from segkit.models.layers.bottleneck import conv3x3
from segkit.models.layers.pooled_norm import PooledBatchNorm


class Selection(nn.Module):
    """Pooled features s (B, C, 1, 1) to the weights (B, M, C, 1, 1) of the branches."""

    def __init__(self, channels: int, branches: int, *, reduction: int, least_inner: int) -> None:
        super().__init__()
        self.branches = branches
        inner = max(channels // reduction, least_inner)
        self.fc_reduce = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn = PooledBatchNorm(inner)
        self.relu = nn.ReLU(inplace=True)
        self.fc_select = nn.Conv2d(inner, channels * branches, 1, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return weights that sum to one over the branches."""
        z = self.relu(self.bn(self.fc_reduce(pooled)))
        return self.fc_select(z).unflatten(1, (self.branches, -1)).softmax(1)


class SelectiveKernel(nn.Module):
    """Replacement for a 3x3: (B, C, H, W) to (B, C, H/stride, W/stride).

    ``kernels`` are the dilation and groups of the 3x3 of each branch; in thin networks, the groups are the
    greatest common divisor of channels and groups.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        kernels: Sequence[tuple[int, int]] = ((1, 32), (2, 32)),
        reduction: int = 16,
        least_inner: int = 32,
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList()
        for step, groups in kernels:
            conv = conv3x3(channels, stride, dilation * step, groups=math.gcd(channels, groups))
            layers = {"conv": conv, "bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
            self.paths.append(nn.Sequential(OrderedDict(layers)))
        self.attn = Selection(channels, len(kernels), reduction=reduction, least_inner=least_inner)

    def forward(self, x: Tensor) -> Tensor:
        """Return V, the weighted sum of the branches."""
        maps = [path(x) for path in self.paths]
        means = torch.stack([u.mean((2, 3), keepdim=True) for u in maps]).sum(0)
        return weighted_sum(maps, self.attn(means))
