"""SKNet (arXiv 1903.06586): a ResNeXt with a selective kernel, SK[2, 16, 32], in place of the 3x3."""

from __future__ import annotations

from functools import partial
from typing import Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import Design
from segkit.models.layers.selective_kernel import SelectiveKernel
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, PositiveInt

GROUPS = 32


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101"],
    output_stride: Literal[8, 16, 32] = 8,
    width: PositiveInt = 64,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """An SKNet.

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
    spatial = partial(SelectiveKernel, groups=GROUPS)
    design = Design(bottleneck_width=4, cardinality=GROUPS, spatial=spatial)
    network = Network(
        design,
        BLOCKS[variant],
        output_stride=output_stride,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    load_backbone(network, weights, None)
    return network
