"""DeepLabV3+ (arXiv 1802.02611): ASPP, then a decoder that looks at the first stage again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, conv_norm_relu, rates_for
from segkit.models.layers.dropout import Dropout


class DeepLabV3PlusHead(nn.Module):
    """ASPP resized to the first stage and joined with it, two 3x3, dropout, 1x1 to the classes."""

    def __init__(
        self, aspp: ASPP, fine: nn.Sequential, decoder: nn.Sequential, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.aspp, self.fine, self.decoder, self.align_corners = aspp, fine, decoder, align_corners

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the first: a quarter of the image's."""
        fine = self.fine(stages[0])
        coarse = self.aspp(stages[-1])
        coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return self.decoder(torch.cat([coarse, fine], 1))


def build(
    in_channels: Sequence[int],
    num_classes: int,
    output_stride: int,
    align_corners: bool,  # noqa: FBT001 - late values are positional
    *,
    width: PositiveInt = 256,
    fine_width: PositiveInt = 48,
    atrous_rates: list[PositiveInt] | None = None,
    dropout: Fraction = 0.1,
) -> DeepLabV3PlusHead:
    """A DeepLabV3+ head.

    Args:
        in_channels: of the four stages.
        num_classes: K.
        output_stride: of the backbone; the rates follow it.
        align_corners: how the coarse features are resized.
        width: channels of each branch and of the decoder.
        fine_width: channels the first stage is reduced to.
        atrous_rates: of the three 3x3 branches; None for 12, 24, 36 at output stride 8, half at 16.
        dropout: in the ASPP and before the last convolution.
    """
    aspp = ASPP(in_channels[-1], width, atrous_rates or rates_for(output_stride), dropout=dropout)
    fine = conv_norm_relu(in_channels[0], fine_width)
    decoder = nn.Sequential(
        conv_norm_relu(width + fine_width, width, 3),
        conv_norm_relu(width, width, 3),
        Dropout(dropout),
        nn.Conv2d(width, num_classes, 1),
    )
    return DeepLabV3PlusHead(aspp, fine, decoder, align_corners=align_corners)
