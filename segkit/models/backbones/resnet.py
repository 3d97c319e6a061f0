"""ResNet (arXiv 1512.03385, the stride in the 3x3) and its variants c, d and s (arXiv 1812.01187)."""

from __future__ import annotations

from typing import Annotated, Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import Design
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, PositiveInt, Range

STEM_WIDTH = {"": None, "c": 32, "d": 32, "s": 64}  # deep stems; d also pools in its shortcuts

PUBLISHED = {  # by torchvision, trained on ImageNet; the name ends in the first digits of the SHA-256
    name.split("-")[0]: f"https://download.pytorch.org/models/resnet{name}.pth"
    for name in ("50-0676ba61", "101-63fe2227", "152-394f9c45")
}


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["50", "101", "152", "50c", "101c", "152c", "50d", "101d", "152d", "50s", "101s", "152s"],
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    multi_grid: list[PositiveInt] | None = None,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """A ResNet.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network.
        multi_grid: dilation of each block of the last stage, such as [1, 2, 4]; None for what the output
            stride asks for.
        dropout: before the classifier.
        weights: "imagenet", a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    depth, kind = (variant, "") if variant.isdigit() else (variant[:-1], variant[-1])
    network = Network(
        Design(average_down=kind == "d"),
        BLOCKS[depth],
        output_stride=output_stride,
        stem_width=STEM_WIDTH[kind],
        width=width,
        num_classes=num_classes,
        dropout=dropout,
        multi_grid=multi_grid,
    )
    load_backbone(network, weights, PUBLISHED.get(variant))
    return network
