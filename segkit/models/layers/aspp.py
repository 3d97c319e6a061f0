"""Atrous spatial pyramid pooling (arXiv 1706.05587): convolutions at several rates, and the global mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.models.layers.convolutions import conv_norm_relu
from segkit.models.layers.pooled_norm import PooledBatchNorm

RATES_AT_8 = (12, 24, 36)


def default_rates(output_stride: int) -> list[int]:
    """Return rates of equal reach in pixels of the image for any output stride: 6, 12, 18 at 16."""
    return [rate * 8 // output_stride for rate in RATES_AT_8]


class ImagePooling(nn.Module):
    """Global mean, projected and repeated at every position: (B, C, h, w) to (B, width, h, w)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(
            nn.Identity(),  # index 0 of the published names is the pool
            nn.Conv2d(in_channels, width, 1, bias=False),
            PooledBatchNorm(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool, project and normalize the map, and expand it to its size."""
        mean = x.mean((2, 3), keepdim=True)  # AdaptiveAvgPool2d is not deterministic on CUDA
        return self.gap(mean).expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """A 1x1, three 3x3 at the given rates and image pooling, joined by a convolution of size ``fuse``."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        rates: Sequence[int],
        *,
        dropout: float = 0.0,
        fuse: int = 1,
    ) -> None:
        super().__init__()
        if len(rates) != 3:
            raise ValueError(
                f"model.head.atrous_rates={list(rates)}: three values are needed, such as [12, 24, 36]"
            )
        self.rates = tuple(rates)
        self.b0 = conv_norm_relu(in_channels, width)
        self.b1, self.b2, self.b3 = (conv_norm_relu(in_channels, width, 3, rate) for rate in rates)
        self.b4 = ImagePooling(in_channels, width)
        self.project = nn.Sequential(*conv_norm_relu(5 * width, width, fuse), nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w) to (B, width, h, w)."""
        return self.project(torch.cat([self.b0(x), self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1))
