"""DropBlock (arXiv 1810.12890): dropout of squares of a map, as neighboring cells are correlated.

A cell is the corner of a dropped block with probability gamma, where the block fits entirely:

    gamma = p / size^2 * (H * W) / ((H - size + 1) * (W - size + 1))

The remaining values are scaled to keep the mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Zero about ``probability`` of the cells of (B, C, H, W) in squares, in training only."""

    def __init__(self, probability: float, size: int = 3) -> None:
        super().__init__()
        self.probability, self.size = probability, size

    def forward(self, x: Tensor) -> Tensor:
        """Drop blocks; a map smaller than a block is returned unchanged."""
        height, width = x.shape[2:]
        rows, columns = height - self.size + 1, width - self.size + 1
        if not self.training or min(rows, columns) < 1:
            return x
        gamma = self.probability / self.size**2 * (height * width) / (rows * columns)
        seeds = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < gamma).to(x.dtype)
        dropped = F.max_pool2d(F.pad(seeds, [self.size - 1] * 4), self.size, 1)  # (B, C, H, W)
        kept = 1 - dropped
        precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot count cells
        return x * kept * (kept.numel() / kept.sum(dtype=precise).clamp(min=1)).to(x.dtype)
