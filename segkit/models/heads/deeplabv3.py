"""DeepLabV3 (arXiv 1706.05587), with the parameter names of PyTorch-Encoding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, default_rates
from segkit.models.layers.convolutions import make_classifier


class DeepLabV3Head(nn.Module):
    """ASPP on the last stage, then 3x3, BN, ReLU, dropout, 1x1 to the classes."""

    def __init__(self, aspp: ASPP, block: nn.Sequential) -> None:
        super().__init__()
        self.aspp, self.block = aspp, block

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the last."""
        return self.block(self.aspp(stages[-1]))


def build(
    in_channels: Sequence[int],
    num_classes: int,
    output_stride: int,
    *,
    width: PositiveInt = 256,
    atrous_rates: list[PositiveInt] | None = None,
    aspp_dropout: Fraction = 0.5,
    dropout: Fraction = 0.1,
) -> DeepLabV3Head:
    """Build a DeepLabV3 head; ``conf/model/head/deeplabv3.yaml`` describes the settings."""
    rates = atrous_rates or default_rates(output_stride)
    aspp = ASPP(in_channels[-1], width, rates, dropout=aspp_dropout)
    return DeepLabV3Head(aspp, make_classifier(width, width, num_classes, dropout))
