"""DeepLabV3+ (arXiv 1802.02611): ASPP, and a decoder that also reads the first stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, default_rates
from segkit.models.layers.convolutions import conv_norm_relu
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
    align_corners: bool,  # noqa: FBT001 - passed by name
    *,
    width: PositiveInt = 256,
    fine_width: PositiveInt = 48,
    atrous_rates: list[PositiveInt] | None = None,
    dropout: Fraction = 0.1,
) -> DeepLabV3PlusHead:
    """Build a DeepLabV3+ head; ``conf/model/head/deeplabv3plus.yaml`` describes the settings."""
    aspp = ASPP(in_channels[-1], width, atrous_rates or default_rates(output_stride), dropout=dropout)
    fine = conv_norm_relu(in_channels[0], fine_width)
    decoder = nn.Sequential(
        conv_norm_relu(width + fine_width, width, 3),
        conv_norm_relu(width, width, 3),
        Dropout(dropout),
        nn.Conv2d(width, num_classes, 1),
    )
    return DeepLabV3PlusHead(aspp, fine, decoder, align_corners=align_corners)
