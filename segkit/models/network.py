"""Segmenter: normalization, backbone, head and auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.types import IMAGENET_MEAN, IMAGENET_STD, Logits

BYTES = (0.0, 255.0)  # value range of uint8 images


class Segmenter(nn.Module):
    """A segmentation network.

    Attributes:
        auxiliary: a second head on an earlier stage for training, or None.
        align_corners: of every resize.
        mean, std: (C, 1, 1) of the C bands, for stored values divided by 255.
        black: the stored value of black of each band.
        takes_photographs: images are uint8; otherwise of any type.
        class_names: of the K classes in order, or None if unknown; data are matched with them by name.
    """

    mean: Tensor
    std: Tensor
    class_names: Sequence[str] | None = None

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
        value_range: Sequence[Any] = BYTES,
    ) -> None:
        super().__init__()
        if value_range and isinstance(value_range[0], float | int):  # one pair for all bands
            value_range = [value_range] * len(mean)
        limits = [tuple(pair) for pair in value_range]
        if not 0 < len(mean) == len(std) == len(limits):
            raise ValueError(
                f"model.mean has {len(mean)} values, model.std has {len(std)}, model.value_range has "
                f"{len(limits)}: each needs one for every band"
            )
        self.black = [low for low, _ in limits]
        self.takes_photographs = set(limits) == {BYTES}
        if not self.takes_photographs:  # ((x - low) / (high - low) - mean) / std as (x / 255 - mean) / std
            mean = [(low + m * (high - low)) / 255 for m, (low, high) in zip(mean, limits, strict=True)]
            std = [s * (high - low) / 255 for s, (low, high) in zip(std, limits, strict=True)]
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary
        self.num_classes, self.align_corners = num_classes, align_corners
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def in_channels(self) -> int:
        """Number of bands of an image."""
        return len(self.mean)

    def normalize(self, image: Tensor) -> Tensor:
        """Normalize stored images (B, bands, H, W), to the precision and on the device of the model."""
        precise = torch.promote_types(self.mean.dtype, torch.float32)  # half precision rounds bytes
        image = image.to(self.mean.device, precise)
        return ((image / 255 - self.mean) / self.std).to(self.mean.dtype)

    def forward(self, image: Tensor, *, at: Literal["image", "head"] = "image") -> Logits:
        """Return the logits (B, K, H, W) of images (B, bands, H, W), in training also auxiliary ones.

        Args:
            image: integers as stored, which are normalized here, or floats normalized before.
            at: size of the logits; at that of the head, (B, K, h, w), for losses that resize them.

        Raises:
            ValueError: the images have another number of bands, or no pixels.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels or image.numel() == 0:
            raise ValueError(
                f"images of shape {tuple(image.shape)}: must be (B, {self.in_channels}, H, W) with at least "
                "one pixel"
            )
        if not image.is_floating_point():
            image = self.normalize(image)
        stages = self.backbone(image)  # four of (B, C_i, H/s_i, W/s_i)
        logits = [self.head(stages)]
        if self.auxiliary is not None and self.training:
            logits.append(self.auxiliary(stages))
        if at == "image":
            logits = [self.resize(head_logits, image) for head_logits in logits]
        return Logits(*logits, align_corners=self.align_corners)

    def resize(self, logits: Tensor, image: Tensor) -> Tensor:
        """Resize the logits of a head to the size of the image."""
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=self.align_corners)
