"""DeepLabV3 of mmsegmentation: wider, and joined by a 3x3 directly before the classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkit.config import Fraction, PositiveInt
from segkit.models.layers.aspp import ASPP, default_rates


class DeepLabV3MMSegHead(nn.Module):
    """ASPP on the last stage, then dropout of whole channels and 1x1 to the classes."""

    def __init__(self, aspp: ASPP, classifier: nn.Sequential) -> None:
        super().__init__()
        self.aspp, self.classifier = aspp, classifier

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
    """Build the DeepLabV3 head of mmsegmentation's checkpoints; ``dropout`` drops whole channels."""
    aspp = ASPP(in_channels[-1], width, atrous_rates or default_rates(output_stride), fuse=3)
    classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))
    return DeepLabV3MMSegHead(aspp, classifier)
