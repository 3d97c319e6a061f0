"""Resizing whose gradient keeps the channels-last layout.

Heads join resized maps, so the gradient of each is some channels of a larger tensor. PyTorch's backward pass
of a resize is 20 times slower for these than for a tensor of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``F.interpolate`` of (B, C, H, W), with a faster gradient if it is channels last."""
    result = F.interpolate(input, *args, **kwargs)
    if result.requires_grad and input.is_contiguous(memory_format=torch.channels_last):
        result.register_hook(_copy_channels_last)
    return result


def _copy_channels_last(grad: Tensor) -> Tensor:
    if grad.is_contiguous():
        return grad
    return grad.contiguous(memory_format=torch.channels_last)
