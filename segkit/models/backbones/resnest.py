"""ResNeSt: ResNet-D with Split-Attention instead of the 3x3 (arXiv 2004.08955), with its authors' weights."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from torch import nn

from segkit.config import Fraction, Interval, NonNegativeFloat, PathStr, PositiveInt
from segkit.models.backbones._family import Backbone, override_variant
from segkit.models.layers.bottleneck import Bottleneck, Unit, Variant
from segkit.models.layers.drop_block import DropBlock
from segkit.models.layers.groups import check_divisible
from segkit.models.layers.split_attention import SplitAttention
from segkit.models.weights import load_backbone

RESNEST = Variant((3, 4, 6, 3), "split", radix=2, stem_width=32, average_down=True, pool="after")
FAST = RESNEST._replace(pool="before")  # the paper's ablation: {radix}s{cardinality}x{bottleneck width}d
VARIANTS = {
    "14": RESNEST._replace(blocks=(1, 1, 1, 1)),
    "26": RESNEST._replace(blocks=(2, 2, 2, 2)),
    "50": RESNEST,
    "101": RESNEST._replace(blocks=(3, 4, 23, 3), stem_width=64),
    "200": RESNEST._replace(blocks=(3, 24, 36, 3), stem_width=64),
    "269": RESNEST._replace(blocks=(3, 30, 48, 8), stem_width=64),
    "50_fast_1s1x64d": FAST._replace(radix=1),
    "50_fast_2s1x64d": FAST,
    "50_fast_4s1x64d": FAST._replace(radix=4),
    "50_fast_1s2x40d": FAST._replace(radix=1, cardinality=2, bottleneck_width=40),
    "50_fast_2s2x40d": FAST._replace(cardinality=2, bottleneck_width=40),
    "50_fast_4s2x40d": FAST._replace(radix=4, cardinality=2, bottleneck_width=40),
    "50_fast_1s4x24d": FAST._replace(radix=1, cardinality=4, bottleneck_width=24),
    # mmsegmentation has no pool where dilation replaced the stride
    "50_mmseg": RESNEST._replace(pool="strided"),
    "101_mmseg": RESNEST._replace(blocks=(3, 4, 23, 3), stem_width=64, pool="strided"),
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
    """Build a ResNeSt, dilated as published; ``conf/model/backbone/resnest.yaml`` describes the settings.

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
        average_down=average_down,
        pool=pool,
    )
    check_divisible("model.backbone.radix", numbers.radix, numbers.bottleneck_width)
    spatial = partial(
        SplitAttention, radix=numbers.radix, cardinality=numbers.cardinality, reduction=reduction
    )
    network = Backbone(
        numbers,
        Unit(spatial),
        output_stride=output_stride,
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
    load_backbone(network, weights, PUBLISHED.get(variant) if numbers == VARIANTS[variant] else None)
    return network
