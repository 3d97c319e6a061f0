"""UPerNet (arXiv 1807.10221) of mmsegmentation: a pyramid pooling module on top of an FPN.

For backbones that are not dilated, such as ConvNeXt and Swin. mmsegmentation uses ``align_corners=False``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.heads.pspnet import GRIDS, pool_to_grid
from segkit.models.layers.convolutions import conv_norm_relu
from segkit.models.layers.pooled_norm import PooledBatchNorm


class UPerHead(nn.Module):
    """Lateral convolutions, a top-down path and a 3x3 over all levels, with the names of mmsegmentation."""

    def __init__(
        self,
        in_channels: Sequence[int],
        width: int,
        num_classes: int,
        *,
        align_corners: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        *lower, top = in_channels
        self.psp_modules = nn.ModuleList(conv_norm_relu(top, width) for _ in GRIDS)
        self.psp_modules[0][1] = PooledBatchNorm(width)  # pyright: ignore[reportIndexIssue]
        self.bottleneck = conv_norm_relu(top + len(GRIDS) * width, width, 3)
        self.lateral_convs = nn.ModuleList(conv_norm_relu(channels, width) for channels in lower)
        self.fpn_convs = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in lower)
        self.fpn_bottleneck = conv_norm_relu(len(in_channels) * width, width, 3)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))

    def resize(self, x: Tensor, other: Tensor) -> Tensor:
        """Resize a map to the height and width of another."""
        return F.interpolate(x, other.shape[2:], mode="bilinear", align_corners=self.align_corners)

    def pool(self, x: Tensor) -> Tensor:
        """Return the last stage (B, C, h, w) and its means over four grids, joined to (B, width, h, w)."""
        means = [conv(pool_to_grid(x, grid)) for conv, grid in zip(self.psp_modules, GRIDS, strict=True)]
        return self.bottleneck(torch.cat([x, *(self.resize(mean, x) for mean in means)], 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the first."""
        levels = [conv(stage) for conv, stage in zip(self.lateral_convs, stages, strict=False)]
        levels.append(self.pool(stages[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + self.resize(levels[i], levels[i - 1])
        maps = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]
        maps.append(levels[-1])
        x = torch.cat([maps[0], *(self.resize(x, maps[0]) for x in maps[1:])], 1)
        return self.classifier(self.fpn_bottleneck(x))


def build(
    in_channels: Sequence[int],
    num_classes: int,
    align_corners: bool,  # noqa: FBT001 - passed by name
    *,
    width: PositiveInt = 512,
    dropout: Fraction = 0.1,
) -> UPerHead:
    """Build a UPerNet head of ``width`` channels in every level; ``dropout`` drops whole channels."""
    return UPerHead(in_channels, width, num_classes, align_corners=align_corners, dropout=dropout)
