"""Common structure of the ResNet family: stem, four stages of bottlenecks, and optionally a classifier.

Dilation is that of the published networks: a dilated stage has stride 1, and its first block has half of the
dilation of its other blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segkit.models.layers.bottleneck import EXPANSION, Bottleneck, Unit, Variant
from segkit.models.layers.dropout import Dropout

STAGES = {  # output stride -> (stride, dilation) of each stage
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}


def override_variant(variant: Variant, *, blocks: Sequence[int] | None, **settings: Any) -> Variant:
    """Return a variant with some of its numbers replaced; None keeps the variant's.

    Raises:
        ValueError: there are not four stages.
    """
    if blocks is not None:
        if len(blocks) != 4:
            raise ValueError(
                f"model.backbone.blocks={list(blocks)}: needs a number for each of the four stages"
            )
        settings["blocks"] = tuple(blocks)
    return variant._replace(**{name: value for name, value in settings.items() if value is not None})


class Backbone(nn.Module):
    """A network of the ResNet family; ``width`` is 64 in the published networks.

    Attributes:
        out_channels: channels of each stage.
        output_stride: pixels of the image per cell of the last stage.
        pool: see ``Variant``.
        multi_grid: dilation of each block of the last stage; None for that of the output stride.
        fc: the classifier, or None without ``num_classes``.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        variant: Variant,
        unit: Unit,
        *,
        output_stride: int,
        width: int,
        num_classes: int | None,
        dropout: float,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in STAGES:
            raise ValueError(f"model.backbone.output_stride={output_stride}: must be one of 8, 16, 32")
        self.output_stride, self.pool = output_stride, variant.pool
        self.multi_grid = None if multi_grid is None else tuple(multi_grid)
        self.out_channels = [width * 2**i * EXPANSION for i in range(4)]
        if variant.stem_width:
            stem_width = max(variant.stem_width * width // 64, 1)
            channels = 2 * stem_width
            self.conv1 = make_deep_stem(stem_width)
        else:
            channels = width
            self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (stride, dilation) in enumerate(STAGES[output_stride]):
            stage = nn.Sequential()
            dilations = [max(dilation // 2, 1), *[dilation] * (variant.blocks[i] - 1)]
            if i == 3 and multi_grid is not None:
                if len(multi_grid) != variant.blocks[i]:
                    raise ValueError(
                        f"model.backbone.multi_grid={list(multi_grid)}: needs a dilation for each of the "
                        f"{variant.blocks[i]} blocks of the last stage"
                    )
                dilations = list(multi_grid)
            for j, block_dilation in enumerate(dilations):
                block = Bottleneck(
                    channels,
                    width * 2**i,
                    stride if j == 0 else 1,
                    block_dilation,
                    variant=variant,
                    unit=unit,
                    pooled=i > 0 and j == 0,
                )
                stage.append(block)
                channels = self.out_channels[i]
            setattr(self, f"layer{i + 1}", stage)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes) if num_classes else None
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return four stages (B, C_i, H/s_i, W/s_i), sizes rounded up, of a normalized image (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            stages.append(x)
        return stages

    def classify(self, image: Tensor) -> Tensor:
        """Return class scores (B, num_classes) of a normalized image (B, 3, H, W).

        Raises:
            ValueError: the network was built without ``num_classes``.
        """
        if self.fc is None:
            raise ValueError(
                "this backbone has no classifier. Build it with num_classes, such as 1000 for ImageNet"
            )
        return self.fc(self.dropout(self.forward(image)[-1].mean((2, 3))))


def make_deep_stem(width: int) -> nn.Sequential:
    """Return three 3x3 convolutions that replace the 7x7; the network's ``bn1`` follows the last."""
    layers: list[nn.Module] = []
    for in_channels, stride in ((3, 2), (width, 1)):
        layers += [
            nn.Conv2d(in_channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False))


def initialize_convolutions(network: nn.Module) -> None:
    """Initialize convolutions with standard deviation sqrt(2 / (k * k * out_channels)), ignoring groups."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
