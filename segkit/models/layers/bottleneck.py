"""Bottleneck (arXiv 1512.03385) with a replaceable 3x3 and a replaceable attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn

from segkit.models.layers.groups import round_up

EXPANSION = 4


def conv3x3(channels: int, stride: int = 1, dilation: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps the channels; only the stride changes the size."""
    return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=groups, bias=False)


class Variant(NamedTuple):
    """Numbers of a network of the ResNet family."""

    blocks: tuple[int, int, int, int]  # of each stage
    unit: Literal["plain", "se", "cbam", "sge", "sk", "sknet", "split"] = "plain"
    cardinality: int = 1  # groups of the 3x3
    bottleneck_width: int = 64  # channels of each of them in the first stage of the published width
    radix: int = 1  # splits of each group
    stem_width: int = 0  # of a deep stem; 0 for the single 7x7 convolution
    average_down: bool = False  # shortcut: average pool and 1x1 instead of a strided 1x1
    pool: Literal["none", "after", "before", "strided"] = "none"
    """A 3x3 average pool takes over the stride of the 3x3 convolution, after or before it. It is in the first
    block of stages 2 to 4, also where dilation replaced the stride; ``strided`` leaves it out there."""


class Unit(NamedTuple):
    """Replaceable parts of a bottleneck."""

    spatial: Callable[[int, int, int], nn.Module]  # (channels, stride, dilation) -> the 3x3
    attention: Callable[[int], nn.Module] = nn.Identity  # (channels) -> after the last normalization


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, attention, plus the shortcut: (B, C, H, W) to (B, 4 * channels, H/stride, W/stride).

    Names of the parts are those of the published weights; ``bn2`` exists only after a plain convolution.
    ``pooled`` marks the blocks to which ``Variant.pool`` applies.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        *,
        variant: Variant,
        unit: Unit,
        pooled: bool,
    ) -> None:
        super().__init__()
        group = max(channels * variant.bottleneck_width // 64, 1)  # at least one in thin networks
        inner = round_up(group, variant.radix) * variant.cardinality
        out_channels = channels * EXPANSION
        has_pool = pooled and variant.pool != "none"
        if variant.pool == "strided" and stride == 1:
            has_pool = False
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = unit.spatial(inner, 1 if has_pool else stride, dilation)
        self.bn2 = nn.BatchNorm2d(inner) if isinstance(self.conv2, nn.Conv2d) else None
        self.pool = nn.AvgPool2d(3, stride, padding=1) if has_pool else None
        self.pool_first = variant.pool == "before"
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.attention = unit.attention(out_channels)
        self.drop: nn.Module = nn.Identity()  # replaced by a DropBlock on request
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = make_projection(in_channels, out_channels, stride, average=variant.average_down)

    def forward(self, x: Tensor) -> Tensor:
        """Features to features."""
        out = self.relu(self.drop(self.bn1(self.conv1(x))))
        if self.pool is not None and self.pool_first:
            out = self.pool(out)
        out = self.conv2(out)
        if self.bn2 is not None:
            out = self.relu(self.drop(self.bn2(out)))
        if self.pool is not None and not self.pool_first:
            out = self.pool(out)
        out = self.drop(self.attention(self.bn3(self.conv3(out))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)


def make_projection(in_channels: int, out_channels: int, stride: int, *, average: bool) -> nn.Sequential:
    """Return the projection of a shortcut that changes the shape; its pool, if any, has index 0."""
    norm = nn.BatchNorm2d(out_channels)
    if not average:
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm)
    pool = nn.Identity()
    if stride > 1:
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), norm)
