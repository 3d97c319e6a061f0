"""ASPP's image pooling in the layout of the other branches.

The expanded mean has no layout of its own, so joining it to channels-last maps would convert all of them, and
plain autograd writes the gradient of the mean at full size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.cpu.split_attention import global_mean
from segkit.models.layers.aspp import ImagePooling


class FastImagePooling(ImagePooling):
    """``ImagePooling`` whose result is stored in the memory format of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w) to (B, width, h, w)."""
        if not self.training or torch.compiler.is_compiling():
            return super().forward(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return self.gap(global_mean(x)).expand(-1, -1, *x.shape[2:]).contiguous(memory_format=layout)
