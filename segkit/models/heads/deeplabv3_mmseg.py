"""DeepLabV3 as mmsegmentation has it: wider, joined by a 3x3 that leads straight to the classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, rates_for


class DeepLabV3MMSegHead(nn.Module):
    """ASPP on the last stage, then dropout of whole channels and 1x1 to the classes."""

    def __init__(self, aspp: ASPP, width: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.aspp = aspp
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the last."""
        return self.classifier(self.aspp(stages[-1]))


def build(
    in_channels: Sequence[int],
    num_classes: int,
    output_stride: int,
    *,
    width: PositiveInt = 512,
    atrous_rates: list[PositiveInt] | None = None,
    dropout: Fraction = 0.1,
) -> DeepLabV3MMSegHead:
    """A DeepLabV3 head that mmsegmentation's checkpoints load into.

    Args:
        in_channels: of the four stages.
        num_classes: K.
        output_stride: of the backbone; the rates follow it.
        width: channels of each branch.
        atrous_rates: of the three 3x3 branches; None for 12, 24, 36 at output stride 8, half at 16.
        dropout: of whole channels, before the last convolution.
    """
    aspp = ASPP(in_channels[-1], width, atrous_rates or rates_for(output_stride), fuse=3)
    return DeepLabV3MMSegHead(aspp, width, num_classes, dropout=dropout)
