"""ResNeSt: ResNet-D with Split-Attention instead of the 3x3 (arXiv 2004.08955), with its authors' weights."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, NamedTuple

from torch import nn

from segkit.config import Fraction, Interval, NonNegativeFloat, PathStr, PositiveInt
from segkit.models.backbones._family import Backbone, override_variant
from segkit.models.layers.bottleneck import Bottleneck, Design
from segkit.models.layers.drop_block import DropBlock
from segkit.models.layers.groups import check_divisible
from segkit.models.layers.split_attention import SplitAttention
from segkit.models.weights import load_backbone


class Variant(NamedTuple):
    """Numbers of a published network."""

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
    # the paper's ablation: {radix}s{cardinality}x{bottleneck width}d, with the pool before the 3x3
    "50_fast_1s1x64d": Variant((3, 4, 6, 3), radix=1, pool="before"),
    "50_fast_2s1x64d": Variant((3, 4, 6, 3), pool="before"),
    "50_fast_4s1x64d": Variant((3, 4, 6, 3), radix=4, pool="before"),
    "50_fast_1s2x40d": Variant((3, 4, 6, 3), radix=1, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_2s2x40d": Variant((3, 4, 6, 3), radix=2, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_4s2x40d": Variant((3, 4, 6, 3), radix=4, cardinality=2, bottleneck_width=40, pool="before"),
    "50_fast_1s4x24d": Variant((3, 4, 6, 3), radix=1, cardinality=4, bottleneck_width=24, pool="before"),
    # mmsegmentation has no pool where dilation replaced the stride
    "50_mmseg": Variant((3, 4, 6, 3), pool="strided"),
    "101_mmseg": Variant((3, 4, 23, 3), stem_width=64, pool="strided"),
}

RELEASE = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1"
PUBLISHED = {  # by the authors, trained on ImageNet; the name ends in the first digits of the SHA-256
    name.rsplit("-", 1)[0]: f"{RELEASE}/resnest{name}.pth"
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
    width: Annotated[int, Interval(ge=1, le=512)] = 64,
    blocks: list[PositiveInt] | None = None,
    radix: PositiveInt | None = None,
    cardinality: Annotated[int, Interval(ge=1, le=64)] | None = None,
    bottleneck_width: Annotated[int, Interval(ge=1, le=512)] | None = None,
    reduction: PositiveInt = 4,
    pool: Literal["none", "after", "before", "strided"] | None = None,
    stem_width: Annotated[int, Interval(ge=0, le=512)] | None = None,
    average_down: bool = True,
    last_gamma: NonNegativeFloat = 1.0,
    drop_block: Fraction = 0.0,
    dropout: Fraction = 0.0,
    weights: PathStr | None = None,
) -> Backbone:
    """Build a ResNeSt, dilated as published.

    Args:
        num_classes: classes of an image classifier; None for a backbone without one.
        variant: depth, or a variant of the paper's ablation.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 in the published networks.
        blocks: of each stage; None, here and below, is the variant's.
        radix: splits of each cardinal group.
        cardinality: cardinal groups.
        bottleneck_width: channels of each of them, for a ``width`` of 64.
        reduction: channels of all splits per channel between the two fully connected layers.
        pool: a 3x3 average pool with the stride of the block after or before the 3x3 convolution; "strided"
            is after, but not where dilation replaced the stride.
        stem_width: of the deep stem; 0 for the single 7x7 convolution.
        average_down: the shortcut has an average pool instead of a stride.
        last_gamma: initial scale of each block's last normalization; with 0 a block starts as its shortcut.
        drop_block: share of cells that DropBlock drops in stages 3 and 4.
        dropout: before the classifier.
        weights: "imagenet", a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    numbers = override_variant(
        VARIANTS[variant],
        blocks=blocks,
        stem_width=stem_width,
        radix=radix,
        cardinality=cardinality,
        bottleneck_width=bottleneck_width,
        pool=pool,
    )
    check_divisible("model.backbone.radix", numbers.radix, numbers.bottleneck_width)
    design = Design(
        bottleneck_width=numbers.bottleneck_width,
        cardinality=numbers.cardinality,
        radix=numbers.radix,
        spatial=partial(
            SplitAttention, radix=numbers.radix, cardinality=numbers.cardinality, reduction=reduction
        ),
        average_down=average_down,
        pool=numbers.pool,
    )
    network = Backbone(
        design,
        numbers.blocks,
        output_stride=output_stride,
        stem_width=numbers.stem_width or None,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, last_gamma)
    for module in (*network.layer3.modules(), *network.layer4.modules()):
        if drop_block and isinstance(module, Bottleneck | SplitAttention):
            module.drop = DropBlock(drop_block)
    is_published = numbers == VARIANTS[variant] and average_down
    load_backbone(network, weights, PUBLISHED.get(variant) if is_published else None)
    return network
