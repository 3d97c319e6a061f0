"""A segmenter: backbone, head and auxiliary head, with the normalisation in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.types import Logits

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
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def in_channels(self) -> int:
        """Bands of an image: as many as there are means."""
        return len(self.mean)

    def normalise(self, image: Tensor) -> Tensor:
        """Image (B, bands, H, W) uint8 to normalised values in the precision of the model, on its device."""
        return ((image.to(self.mean.device).float() / 255 - self.mean) / self.std).to(self.mean.dtype)

    def forward(self, image: Tensor, *, at: Literal["image", "head"] = "image") -> Logits:
        """Image (B, bands, H, W), uint8 or normalised, to logits (B, K, H, W); in training auxiliary ones.

        Args:
            image: normalised here if it is uint8.
            at: whose size the logits have; at the head's own, (B, K, h, w), they are for a loss, which
                resizes them itself.

        Raises:
            ValueError: the images are of another number of bands, or have no pixel.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels or image.numel() == 0:
            raise ValueError(
                f"an image batch is (B, {self.in_channels}, H, W) with at least one pixel, this one is "
                f"{tuple(image.shape)}"
            )
        if image.dtype == torch.uint8:
            image = self.normalise(image)
        stages = self.backbone(image)  # four of (B, C_i, H/s_i, W/s_i)
        heads = [self.head(stages)]
        if self.auxiliary is not None and self.training:
            heads.append(self.auxiliary(stages))
        if at == "image":
            heads = [self.resize(logits, image) for logits in heads]
        return Logits(*heads, align_corners=self.align_corners)

    def resize(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits at a head's own size to the image's size."""
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=self.align_corners)
