"""ResNeXt (arXiv 1611.05431): a ResNet whose 3x3 is grouped."""

from __future__ import annotations

from typing import Annotated, Literal

from segkit.models.backbones._family import BLOCKS, Network
from segkit.models.layers.bottleneck import grouped
from segkit.models.weights import load_backbone
from segkit.settings import Fraction, Range

PUBLISHED = {  # by torchvision, trained on ImageNet; the name ends in the first digits of the SHA-256
    name.split("-")[0]: f"https://download.pytorch.org/models/resnext{name}.pth"
    for name in ("50_32x4d-7cdf4587", "101_32x8d-8ba56ff5")
}


def build(
    num_classes: int | None = None,
    *,
    variant: Literal["50_32x4d", "101_32x8d"],
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Range(least=1, most=512)] = 64,
    dropout: Fraction = 0.0,
    weights: str | None = None,
) -> Network:
    """A ResNeXt; the variant says depth, groups and width of a group.

    Args:
        num_classes: classes of an image classifier; None for a bare backbone.
        variant: which of the family.
        output_stride: pixels per cell of the last stage.
        width: channels of the first stage before the expansion; 64 makes the published network.
        dropout: before the classifier.
        weights: "imagenet", a path, ``file://`` or ``http(s)://``; None starts from scratch.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    depth, groups = variant.split("_")
    network = Network(
        grouped(groups),
        BLOCKS[depth],
        output_stride=output_stride,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
    )
    load_backbone(network, weights, PUBLISHED[variant])
    return network
