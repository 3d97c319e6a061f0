"""DeepLabV3+ as segmentation_models.pytorch has it: its 3x3 are separable, and one stands behind the ASPP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, conv_norm_relu, separable_norm_relu


class DeepLabV3PlusSMPHead(nn.Module):
    """ASPP, a 3x3, resized to the first stage and joined with it, a 3x3, 1x1 to the classes."""

    def __init__(
        self, aspp: ASPP, channels: int, width: int, num_classes: int, *, fine_width: int, align_corners: bool
    ) -> None:
        super().__init__()
        self.aspp, self.align_corners = aspp, align_corners
        self.refine = separable_norm_relu(width, width)
        self.fine = conv_norm_relu(channels, fine_width)
        self.decoder = separable_norm_relu(width + fine_width, width)
        self.classifier = nn.Sequential(nn.Conv2d(width, num_classes, 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Four stages to logits (B, K, h, w) at the size of the first: a quarter of the image's."""
        fine = self.fine(stages[0])
        coarse = self.refine(self.aspp(stages[-1]))
        coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return self.classifier(self.decoder(torch.cat([coarse, fine], 1)))


def build(
    in_channels: Sequence[int],
    num_classes: int,
    align_corners: bool,  # noqa: FBT001 - late values are positional
    *,
    width: PositiveInt = 256,
    fine_width: PositiveInt = 48,
    atrous_rates: list[PositiveInt] | None = None,
    dropout: Fraction = 0.5,
) -> DeepLabV3PlusSMPHead:
    """A DeepLabV3+ head that checkpoints of segmentation_models.pytorch load into.

    Args:
        in_channels: of the four stages.
        num_classes: K.
        align_corners: how the coarse features are resized.
        width: channels of each branch and of the decoder.
        fine_width: channels the first stage is reduced to.
        atrous_rates: of the three 3x3 branches; None for 12, 24, 36, there at every output stride.
        dropout: of whole channels, in the ASPP.
    """
    rates = atrous_rates or (12, 24, 36)
    aspp = ASPP(in_channels[-1], width, rates, dropout=dropout, branch=separable_norm_relu)
    return DeepLabV3PlusSMPHead(
        aspp, in_channels[0], width, num_classes, fine_width=fine_width, align_corners=align_corners
    )
