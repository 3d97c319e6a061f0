"""SKNet (arXiv 1903.06586): a ResNeXt with a selective kernel, SK[2, 16, 32], in place of the 3x3."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import Design
from segkit.models.layers.groups import refuse_indivisible
from segkit.models.layers.selective_kernel import Kernel, SelectiveKernel
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, PositiveInt, Range

GROUP_WIDTH, CARDINALITY = 4, 32  # the 3x3 has the channels of a ResNeXt 32x4d, whatever its groups


def build(  # noqa: PLR0913 - one keyword for each number of the paper
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101"],
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    branches: Annotated[int, Range(least=1, most=8)] = 2,
    groups: PositiveInt = 32,
    reduction: PositiveInt = 16,
    least_inner: Annotated[int, Range(least=1, most=1024)] = 32,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """An SKNet.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network, less
            a thinner one.
        branches: how many; branch m has dilation m.
        groups: of each branch's 3x3; in a thin network as many of them as divide its channels.
        reduction: channels per value of the vector that the branches are weighed by.
        least_inner: values of that vector, at least.
        dropout: before the classifier.
        weights: a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    refuse_indivisible("model.backbone.groups", groups, GROUP_WIDTH * CARDINALITY)
    kernels = tuple(Kernel(dilation=m + 1, groups=groups) for m in range(branches))
    spatial = partial(SelectiveKernel, kernels=kernels, reduction=reduction, least_inner=least_inner)
    design = Design(bottleneck_width=GROUP_WIDTH, cardinality=CARDINALITY, spatial=spatial)
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
