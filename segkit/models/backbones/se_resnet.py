"""SE-ResNet and SE-ResNeXt (arXiv 1709.01507): squeeze-and-excitation after each block."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import grouped
from segkit.models.layers.squeeze_excitation import SqueezeExcitation
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, Range


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101", "152", "50_32x4d", "101_32x4d"],
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    reduction: Annotated[int, Range(least=1, most=256)] = 16,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """An SE-ResNet.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network, less
            a thinner one.
        reduction: channels of a block per value between the two matrices.
        dropout: before the classifier.
        weights: a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    depth, _, groups = variant.partition("_")
    design = grouped(groups)._replace(attention=partial(SqueezeExcitation, reduction=reduction))
    network = Network(
        design,
        BLOCKS[depth],
        output_stride=output_stride,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    load_backbone(network, weights, None)
    return network
