"""ResNeSt: ResNet-D with Split-Attention in place of the 3x3 (arXiv 2004.08955; weights by its authors)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, NamedTuple

from torch import nn

from segkit.config import Fraction, NonNegativeFloat, PathStr, PositiveInt, Range
from segkit.models.backbones._family import Backbone, override_variant
from segkit.models.layers.bottleneck import Bottleneck, Design
from segkit.models.layers.drop_block import DropBlock
from segkit.models.layers.groups import check_divisible
from segkit.models.layers.split_attention import SplitAttention
from segkit.models.weights import load_backbone


class Variant(NamedTuple):
    """The numbers of one published network."""

    blocks: tuple[int, int, int, int]
    stem_width: int = 32
    radix: int = 2
    cardinality: int = 1
    bottleneck_width: int = 64
    pool: Literal["none", "after", "before", "strided"] = "after"


VARIANTS = {
    "14": Variant((1, 1, 1, 1)),
    "26": Variant((2, 2, 2, 2)),
    "50": Variant((3, 4, 6, 3)),
    "101": Variant((3, 4, 23, 3), stem_width=64),
    "200": Variant((3, 24, 36, 3), stem_width=64),
    "269": Variant((3, 30, 48, 8), stem_width=64),
    # the ablation of the paper: {radix}s{cardinality}x{bottleneck width}d, the pool before the 3x3
    "50_fast_1s1x64d": Variant((3, 4, 6, 3), radix=1, pool="before"),
    "50_fast_2s1x64d": Variant((3, 4, 6, 3), pool="before"),
    "50_fast_4s1x64d": Variant((3, 4, 6, 3), radix=4, pool="before"),
    "50_fast_1s2x40d": Variant((3, 4, 6, 3), radix=1, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_2s2x40d": Variant((3, 4, 6, 3), radix=2, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_4s2x40d": Variant((3, 4, 6, 3), radix=4, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_1s4x24d": Variant((3, 4, 6, 3), radix=1, cardinality=4, bottleneck_width=24, pool="before"),
    # mmsegmentation leaves the pool out where dilation replaced the stride; its weights want that
    "50_mmseg": Variant((3, 4, 6, 3), pool="strided"),
    "101_mmseg": Variant((3, 4, 23, 3), stem_width=64, pool="strided"),
}

PUBLISHED = {  # by the authors, trained on ImageNet; the name ends in the first digits of the SHA-256
    name.rsplit("-", 1)[
        0
    ]: f"https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/resnest{name}.pth"
    for name in (
        "50-528c19ca",
        "101-22405ba7",
        "200-75117900",
        "269-0cc87c48",
        "50_fast_1s1x64d-d8fbf808",
        "50_fast_2s1x64d-44938639",
        "50_fast_4s1x64d-f74f3fc3",
        "50_fast_1s2x40d-32830b84",
        "50_fast_2s2x40d-9d126481",
        "50_fast_4s2x40d-41d14ed0",
        "50_fast_1s4x24d-d4a4f76f",
    )
}


Name = Literal[
    "14", "26", "50", "101", "200", "269", "50_fast_1s1x64d", "50_fast_2s1x64d", "50_fast_4s1x64d",
    "50_fast_1s2x40d", "50_fast_2s2x40d", "50_fast_4s2x40d", "50_fast_1s4x24d", "50_mmseg",
    "101_mmseg",
]  # fmt: skip


def build(  # noqa: PLR0913 - one keyword for each number of the paper
    num_classes: int | None = None,
    *,
    variant: Name,
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    blocks: list[PositiveInt] | None = None,
    radix: PositiveInt | None = None,
    cardinality: Annotated[int, Range(least=1, most=64)] | None = None,
    bottleneck_width: Annotated[int, Range(least=1, most=512)] | None = None,
    reduction: PositiveInt = 4,
    pool: Literal["none", "after", "before", "strided"] | None = None,
    stem_width: Annotated[int, Range(least=0, most=512)] | None = None,
    average_down: bool = True,
    last_gamma: NonNegativeFloat = 1.0,
    drop_block: Fraction = 0.0,
    dropout: Fraction = 0.0,
    weights: PathStr | None = None,
) -> Backbone:
    """A ResNeSt, dilated as published.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: depth, or an ablation of it.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; the published 64 makes the published network,
            less makes a thinner one, its stem in proportion.
        blocks: of each stage; None, here and below, for the variant's.
        radix: splits of each cardinal group.
        cardinality: cardinal groups.
        bottleneck_width: channels of each of them, where ``width`` is 64.
        reduction: channels of all splits per value between the two fully connected layers.
        pool: where a 3x3 average pool takes over the stride: after the 3x3 convolution, before it, after it
            only where dilation did not replace the stride, or none at all.
        stem_width: of the deep stem; 0 for the single 7x7 convolution.
        average_down: whether the shortcut pools in place of its stride.
        last_gamma: initial scale of each block's last normalization; 0 starts a block as its shortcut.
        drop_block: share of the cells that DropBlock drops in stages 3 and 4.
        dropout: before the classifier.
        weights: "imagenet", a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    v = override_variant(
        VARIANTS[variant],
        blocks=blocks,
        stem_width=stem_width,
        radix=radix,
        cardinality=cardinality,
        bottleneck_width=bottleneck_width,
        pool=pool,
    )
    check_divisible("model.backbone.radix", v.radix, v.bottleneck_width)
    network = Backbone(
        _design(v, reduction=reduction, average_down=average_down),
        v.blocks,
        output_stride=output_stride,
        stem_width=v.stem_width or None,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    _dress(network, last_gamma=last_gamma, drop_block=drop_block)
    own = v == VARIANTS[variant] and average_down
    load_backbone(network, weights, PUBLISHED.get(variant) if own else None)
    return network


def _design(v: Variant, *, reduction: int, average_down: bool) -> Design:
    return Design(
        bottleneck_width=v.bottleneck_width,
        cardinality=v.cardinality,
        radix=v.radix,
        spatial=partial(SplitAttention, radix=v.radix, cardinality=v.cardinality, reduction=reduction),
        average_down=average_down,
        pool=v.pool,
    )


def _dress(network: Backbone, *, last_gamma: float, drop_block: float) -> None:
    """Initial scale of each block's last normalization, and DropBlock in stages 3 and 4."""
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, last_gamma)
    for module in (*network.layer3.modules(), *network.layer4.modules()):
        if drop_block and isinstance(module, Bottleneck | SplitAttention):
            module.drop = DropBlock(drop_block)
