"""A segmenter: backbone, head, and in training an auxiliary head; pictures in, logits of their size out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit import components
from segkit.models.weights import load_segmenter
from segkit.types import IGNORE_INDEX, Logits

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """Joins the parts; every resize in it follows one ``align_corners``.

    Attributes:
        backbone, head: always there.
        auxiliary: a second head on an earlier stage, of use in training only, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        auxiliary: nn.Module | None = None,
        *,
        num_classes: int,
        align_corners: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary
        self.num_classes, self.align_corners = num_classes, align_corners
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 to normalised values in the precision of the model, on its device."""
        return ((image.to(self.mean.device).float() / 255 - self.mean) / self.std).to(self.mean.dtype)

    def forward(self, image: Tensor) -> Logits:
        """Image (B, 3, H, W), uint8 or normalised, to logits (B, K, H, W); auxiliary ones in training only.

        Raises:
            ValueError: the image is not a batch of RGB pictures with at least one pixel.
        """
        if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0:
            raise ValueError(
                f"an image batch is (B, 3, H, W) with at least one pixel, this one is {tuple(image.shape)}"
            )
        if image.dtype == torch.uint8:
            image = self.normalise(image)
        stages = self.backbone(image)  # four of (B, C_i, H/s_i, W/s_i)
        main = self.resize(self.head(stages), image)
        if self.auxiliary is None or not self.training:
            return Logits(main)
        return Logits(main, self.resize(self.auxiliary(stages), image))

    def resize(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits at a head's own size to the image's size."""
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=self.align_corners)


def build(
    num_classes: int,
    *,
    backbone: dict,
    head: dict,
    auxiliary: dict | None = None,
    align_corners: bool = True,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    weights: str | None = None,
) -> Segmenter:
    """A segmenter from settings.

    Args:
        num_classes: K.
        backbone: ``name`` and settings of a component of ``models.backbones``.
        head: of ``models.heads``.
        auxiliary: of ``models.heads``, or None for none.
        align_corners: how every resize in the model places its samples.
        mean: of RGB in 0..1, subtracted first.
        std: of RGB in 0..1, divided by.
        weights: path, ``file://`` or ``http(s)://`` of weights for the whole model (the backbone's own are
            then not read); None keeps those of the parts.

    Raises:
        ValueError: the number of classes does not fit a label, or a part's settings are wrong.
    """
    if not 1 <= num_classes <= IGNORE_INDEX:
        raise ValueError(
            f"num_classes {num_classes} is not in 1..{IGNORE_INDEX}: labels are uint8 and 255 is ignored"
        )
    if weights is not None:
        backbone = {**backbone, "weights": None}
    trunk = components.build("models.backbones", backbone)
    late = (trunk.out_channels, num_classes, trunk.output_stride, align_corners)
    model = Segmenter(
        trunk,
        components.build("models.heads", head, *late),
        components.build("models.heads", auxiliary, *late) if auxiliary else None,
        num_classes=num_classes,
        align_corners=align_corners,
        mean=mean,
        std=std,
    )
    if weights is not None:
        load_segmenter(model, weights)
    return model
