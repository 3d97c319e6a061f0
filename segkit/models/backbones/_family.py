"""The skeleton of the ResNet family: stem, four stages of bottlenecks, and on request a classifier.

Dilation is exact to the published networks: a dilated stage has stride 1, its FIRST block has half of the
stage's dilation and every other block all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from segkit.models.layers.bottleneck import EXPANSION, Bottleneck, Design
from segkit.models.layers.dropout import Dropout

STAGES = {  # output stride -> (stride, dilation) of each stage
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}

V = TypeVar("V", bound=NamedTuple)


def override_variant(variant: V, *, blocks: Sequence[int] | None, **given: Any) -> V:
    """A variant with the numbers that were given in the place of its own; None leaves its own.

    Raises:
        ValueError: there are not four stages.
    """
    if blocks is not None and len(blocks) != 4:
        raise ValueError(
            f"model.backbone.blocks={list(blocks)}: {len(blocks)} numbers for the four stages; "
            "give one for each, such as [3, 4, 6, 3]"
        )
    given["blocks"] = None if blocks is None else tuple(blocks)
    return variant._replace(**{name: value for name, value in given.items() if value is not None})


class Backbone(nn.Module):
    """A backbone: ``forward(image)`` gives its four stages, ``classify(image)`` class scores.

    ``stem_width`` is that of a deep stem where ``width`` is 64; None is the single 7x7 convolution.

    Attributes:
        out_channels: channels of each stage.
        output_stride: pixels of the image per cell of the last stage.
        pool: see ``Design``.
        multi_grid: dilation of each block of the last stage, or None for what the output stride asks for.
        fc: the classifier, or None without ``num_classes``.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        design: Design,
        blocks: tuple[int, int, int, int],
        *,
        output_stride: int,
        stem_width: int | None = None,
        width: int = 64,
        num_classes: int | None = None,
        dropout: float = 0.0,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in STAGES:
            raise ValueError(f"output_stride {output_stride} is not one of 8, 16, 32")
        self.output_stride, self.pool = output_stride, design.pool
        self.multi_grid = None if multi_grid is None else tuple(multi_grid)
        self.out_channels = [width * 2**i * EXPANSION for i in range(4)]
        if stem_width is None:
            channels = width
            self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        else:
            stem_width = max(stem_width * width // 64, 1)
            channels = 2 * stem_width
            self.conv1 = deep_stem(stem_width)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (stride, dilation) in enumerate(STAGES[output_stride]):
            stage = nn.Sequential()
            reaches = _dilations(dilation, blocks[i], multi_grid if i == 3 else None)
            for j, reach in enumerate(reaches):
                step, pooled = (stride, i > 0) if j == 0 else (1, False)
                stage.append(Bottleneck(channels, width * 2**i, step, reach, design=design, pooled=pooled))
                channels = self.out_channels[i]
            setattr(self, f"layer{i + 1}", stage)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes) if num_classes else None
        initialize(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized image (B, 3, H, W) to four stages (B, C_i, H/s_i, W/s_i), sizes rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            stages.append(x)
        return stages

    def classify(self, image: Tensor) -> Tensor:
        """Normalized image (B, 3, H, W) to scores (B, num_classes).

        Raises:
            ValueError: the network was built without ``num_classes``.
        """
        if self.fc is None:
            raise ValueError(
                "this backbone has no classifier; build it with num_classes, such as 1000 for ImageNet"
            )
        return self.fc(self.dropout(self.forward(image)[-1].mean((2, 3))))


def _dilations(dilation: int, blocks: int, multi_grid: Sequence[int] | None) -> list[int]:
    """Of each block of a stage: half of it in the first, or as given."""
    if multi_grid is None:
        return [max(dilation // 2, 1), *[dilation] * (blocks - 1)]
    if len(multi_grid) != blocks:
        raise ValueError(
            f"model.backbone.multi_grid={list(multi_grid)}: {len(multi_grid)} dilations for the {blocks} "
            "blocks of the last stage; give one for each, such as [1, 2, 4]"
        )
    return list(multi_grid)


def deep_stem(width: int) -> nn.Sequential:
    """Three 3x3 convolutions in place of the 7x7; the network's ``bn1`` follows the last."""
    layers: list[nn.Module] = []
    for in_channels, stride in ((3, 2), (width, 1)):
        layers += [
            nn.Conv2d(in_channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False))


def initialize(network: nn.Module) -> None:
    """Convolutions normal with deviation sqrt(2 / (k * k * out_channels)), groups not taken into account."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
