"""Weighted sums of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def weighted_sum(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum over i of ``weights[:, i] * maps[i]``; their stack is never built.

    Args:
        maps: M of (B, C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(maps[0].dtype)  # softmax leaves autocast in float32
    out = maps[0] * weights[:, 0]
    for i in range(1, len(maps)):
        out = torch.addcmul(out, maps[i], weights[:, i])
    return out
