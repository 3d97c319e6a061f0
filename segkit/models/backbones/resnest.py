"""ResNeSt: ResNet-D with Split-Attention in place of the 3x3 (arXiv 2004.08955; weights by its authors)."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

from segkit.models.backbones._family import Network
from segkit.models.layers.bottleneck import Design
from segkit.models.layers.split_attention import SplitAttention
from segkit.settings import PositiveInt


class Variant(NamedTuple):
    """The numbers of one published network."""

    blocks: tuple[int, int, int, int]
    stem_width: int = 32
    radix: int = 2
    cardinality: int = 1
    bottleneck_width: int = 64
    pool: Literal["after", "before", "strided"] = "after"


VARIANTS = {
    "14": Variant((1, 1, 1, 1)),
    "26": Variant((2, 2, 2, 2)),
    "50": Variant((3, 4, 6, 3)),
    "101": Variant((3, 4, 23, 3), stem_width=64),
    "200": Variant((3, 24, 36, 3), stem_width=64),
    "269": Variant((3, 30, 48, 8), stem_width=64),
}


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["14", "26", "50", "101", "200", "269"],
    output_stride: Literal[8, 16, 32] = 8,
    width: PositiveInt = 64,
    weights: str | None = None,
) -> Network:
    """A ResNeSt, dilated as published.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: depth, or an ablation of it.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; the published 64 makes the published network,
            less makes a thinner one, its stem in proportion.
        weights: where to load weights from; None starts from scratch.
    """
    v = VARIANTS[variant]
    design = Design(
        bottleneck_width=v.bottleneck_width,
        cardinality=v.cardinality,
        spatial=partial(SplitAttention, radix=v.radix, cardinality=v.cardinality),
        average_down=True,
        pool=v.pool,
    )
    return Network(
        design,
        v.blocks,
        output_stride=output_stride,
        stem_width=v.stem_width * width // 64,
        width=width,
        num_classes=num_classes,
    )
