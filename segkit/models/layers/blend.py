"""A weighted sum of feature maps, one after the other: no stack of them all is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.models.layers.recompute import told


def weighted_sum(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum over i of ``weights[:, i] * maps[i]``.

    Args:
        maps: M of (B, C, H, W).
        weights: (B, M, C, 1, 1).
    """
    weights = weights.to(maps[0].dtype)  # softmax leaves autocast in float32
    fixed = weights.detach()
    return told(_blended(maps, weights), lambda *again: _blended(again, fixed), *maps)


def _blended(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    out = maps[0] * weights[:, 0]
    for i in range(1, len(maps)):
        out = torch.addcmul(out, maps[i], weights[:, i])
    return out
