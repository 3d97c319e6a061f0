"""SGE-ResNet (arXiv 1905.09646): a ResNet with spatial group-wise enhance after each block."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import EXPANSION, Design
from segkit.models.layers.groups import refuse_indivisible
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, PositiveInt, Range


def build(  # noqa: PLR0913 - one keyword for each number of the paper
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101"],
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    groups: PositiveInt = 64,
    scale: Annotated[float, Range(least=-100, most=100)] = 0.0,
    shift: Annotated[float, Range(least=-100, most=100)] = 1.0,
    normalise: bool = True,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """An SGE-ResNet.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network, less
            a thinner one.
        groups: of the channels after each block; in a thin network as many of them as divide its channels.
        scale: what the learned scale of each group starts with.
        shift: what its learned shift starts with.
        normalise: whether the likeness is brought to mean 0 and deviation 1 before it is scaled.
        dropout: before the classifier.
        weights: a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    refuse_indivisible("model.backbone.groups", groups, 64 * EXPANSION)
    attention = partial(SpatialGroupEnhance, groups=groups, scale=scale, shift=shift, normalise=normalise)
    design = Design(attention=attention)
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
