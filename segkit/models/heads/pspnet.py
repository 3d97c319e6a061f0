"""PSPNet (arXiv 1612.01105), with the parameter names of PyTorch-Encoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.convolutions import conv_norm_relu, make_classifier
from segkit.models.layers.pooled_norm import PooledBatchNorm

GRIDS = (1, 2, 3, 6)


def pool_to_grid(x: Tensor, grid: int) -> Tensor:
    """Return the mean of each cell of a grid, (B, C, h, w) to (B, C, grid, grid).

    Two matrix products, as the gradient of adaptive average pooling is not deterministic on CUDA.
    """
    rows, columns = (_cell_means(size, grid, x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _cell_means(size: int, grid: int, like: Tensor) -> Tensor:
    """Return (grid, size): row i averages positions floor(i * size / grid) to ceil((i + 1) * size / grid).

    Built from tensors only, so that an exported network takes any size.
    """
    row = torch.arange(grid, device=like.device)[:, None]
    start, end = row * size // grid, -(-(row + 1) * size // grid)
    position = torch.arange(size, device=like.device)
    inside = ((position >= start) & (position < end)).to(torch.promote_types(like.dtype, torch.float32))
    return (inside / (end - start)).to(like.dtype)


class PyramidPooling(nn.Module):
    """The map and its means over four grids, of C / 4 channels each: (B, C, h, w) to (B, 2C, h, w)."""

    def __init__(self, channels: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        convs = (conv_norm_relu(channels, channels // 4) for _ in GRIDS)
        self.conv1, self.conv2, self.conv3, self.conv4 = convs
        self.conv1[1] = PooledBatchNorm(channels // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Join the map and its pooled versions."""
        out = [x]
        for conv, grid in zip((self.conv1, self.conv2, self.conv3, self.conv4), GRIDS, strict=True):
            means = conv(pool_to_grid(x, grid))
            out.append(F.interpolate(means, x.shape[2:], mode="bilinear", align_corners=self.align_corners))
        return torch.cat(out, 1)


class PSPHead(nn.Module):
    """Pyramid pooling of the last stage, 3x3, BN, ReLU, dropout, 1x1 to the classes."""

    def __init__(self, pooling: PyramidPooling, classifier: nn.Sequential) -> None:
        super().__init__()
        self.conv5 = nn.Sequential(pooling, *classifier)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the last."""
        return self.conv5(stages[-1])


def build(
    in_channels: Sequence[int],
    num_classes: int,
    align_corners: bool,  # noqa: FBT001 - passed by name
    *,
    width: PositiveInt | None = None,
    dropout: Fraction = 0.1,
) -> PSPHead:
    """Build a PSPNet head; ``width`` defaults to a quarter of the last stage's channels."""
    channels = in_channels[-1]
    pooling = PyramidPooling(channels, align_corners=align_corners)
    joined = channels + len(GRIDS) * (channels // 4)
    return PSPHead(pooling, make_classifier(joined, width or channels // 4, num_classes, dropout))
