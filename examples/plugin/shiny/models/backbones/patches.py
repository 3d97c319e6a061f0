"""A backbone of strided convolutions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segkit.config import PositiveInt


class Patches(nn.Module):
    """Four stages of a 3x3 convolution and ReLU; stages beyond the output stride have stride 1."""

    def __init__(self, width: int, output_stride: int) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.out_channels = [width, width, 2 * width, 2 * width]
        channels = [3, *self.out_channels]
        strides = [4, 2, 2 if output_stride > 8 else 1, 2 if output_stride > 16 else 1]
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, max(3, stride + 1), stride, max(3, stride + 1) // 2), nn.ReLU()
            )
            for before, after, stride in zip(channels, channels[1:], strides, strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return four stages (B, C_i, H/s_i, W/s_i) of an image (B, 3, H, W)."""
        stages = []
        for part in self.parts:
            image = part(image)
            stages.append(image)
        return stages


def build(*, width: PositiveInt = 16, output_stride: Literal[8, 16, 32] = 8) -> Patches:
    """Return the backbone with ``width`` channels in the first stage."""
    return Patches(width, output_stride)
