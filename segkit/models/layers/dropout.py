"""Dropout whose mask depends on the seed and the shape only.

PyTorch samples a mask in the memory order of the map, so channels-last maps lose other elements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask is sampled in row-major order for any layout and dtype of the map."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability ``p`` and scale the rest by ``1 / (1 - p)``, in training only."""
        if not self.training or self.p == 0:
            return input
        keep = torch.empty(input.shape, dtype=torch.bool, device=input.device).bernoulli_(1 - self.p)
        if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            keep = keep.contiguous(memory_format=torch.channels_last)  # otherwise the result would be NCHW
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return input.where(keep, 0) * scale


def fix_dropout_masks(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` in a model, also of plug-ins and timm, by ``Dropout``, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout
