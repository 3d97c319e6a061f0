"""SGE-ResNet (arXiv 1905.09646): a ResNet with spatial group-wise enhance after each block."""

from __future__ import annotations

from typing import Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import Design
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, PositiveInt


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101"],
    output_stride: Literal[8, 16, 32] = 8,
    width: PositiveInt = 64,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """An SGE-ResNet, 64 groups.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network.
        dropout: before the classifier.
        weights: a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    network = Network(
        Design(attention=SpatialGroupEnhance),
        BLOCKS[variant],
        output_stride=output_stride,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    load_backbone(network, weights, None)
    return network
