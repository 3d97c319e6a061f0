"""Split-Attention (ResNeSt, arXiv 2004.08955, section 3).

C channels form K cardinal groups (cardinality) of R splits each (radix). With U_i the grouped 3x3
convolution with normalization and ReLU of split i:

    s^k   = mean over H x W of sum_i U_i^k                 (C / K values)
    a_i^k = softmax over i of G_i(s^k)                     (R > 1;   sigmoid(G(s^k)) when R = 1)
    V^k   = sum_i a_i^k * U_i^k

Splits are radix-major: the channels of one split are contiguous, so that all groups are one grouped
convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from segkit.models.layers.blend import weighted_sum
from segkit.models.layers.groups import round_up
from segkit.models.layers.pooled_norm import PooledBatchNorm

LEAST_INNER = 32  # channels between the two fully connected layers, at least


class SplitAttention(nn.Module):
    """Replacement for a 3x3; its parts have the names of the published weights."""

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        radix: int = 2,
        cardinality: int = 1,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        inner = round_up(max(channels * radix // reduction, LEAST_INNER), cardinality)
        if channels % (cardinality * radix):
            raise ValueError(
                f"Split-Attention over {channels} channels: must be a multiple of cardinality "
                f"{cardinality} x radix {radix}"
            )
        self.radix, self.cardinality = radix, cardinality
        self.conv = nn.Conv2d(
            channels, channels * radix, 3, stride, dilation, dilation, groups=cardinality * radix, bias=False
        )
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.drop: nn.Module = nn.Identity()  # replaced by a DropBlock on request
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, inner, 1, groups=cardinality)
        self.bn1 = PooledBatchNorm(inner)
        self.fc2 = nn.Conv2d(inner, channels * radix, 1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C, H/stride, W/stride)."""
        x = self.relu(self.drop(self.bn0(self.conv(x))))  # (B, R*C, H, W)
        means = x.mean((2, 3), keepdim=True).unflatten(1, (self.radix, -1)).sum(1)  # s, (B, C, 1, 1)
        scores = self.fc2(self.relu(self.bn1(self.fc1(means))))  # G(s), (B, R*C, 1, 1)
        return weighted_sum(x.chunk(self.radix, 1), self.attention(scores))  # V

    def attention(self, scores: Tensor) -> Tensor:
        """Return the weights (B, R, C, 1, 1) of the splits for scores (B, R*C, 1, 1) of ``fc2``."""
        scores = scores.flatten(1).unflatten(1, (self.cardinality, self.radix, -1)).transpose(1, 2)
        weights = scores.softmax(1) if self.radix > 1 else scores.sigmoid()  # (B, R, K, C/K)
        return weights.flatten(2)[..., None, None]
