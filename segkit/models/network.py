"""A segmenter: backbone, head and auxiliary head, with the normalization in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.types import IMAGENET_MEAN, IMAGENET_STD, Logits

BYTES = (0.0, 255.0)  # black and white of a photograph


class Segmenter(nn.Module):
    """Joins the parts; every resize in it follows one ``align_corners``.

    Attributes:
        backbone, head: always there.
        auxiliary: a second head on an earlier stage, of use in training only, or None.
        mean, std: (C, 1, 1) of the C bands of an image, in 255ths of what is stored.
        black: the stored value of black, of each band.
        photographs: whether images are uint8; the networks of other ranges take any type.
        class_names: of the K classes in order, None where nobody said; data are matched with them by name.
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
        one = bool(value_range) and isinstance(value_range[0], float | int)
        limits = [tuple(value_range)] * len(mean) if one else [tuple(pair) for pair in value_range]
        if not len(mean) == len(std) == len(limits):
            raise ValueError(
                f"model.mean has {len(mean)} values, model.std {len(std)} and model.value_range {len(limits)}"
                ": each needs one for every band"
            )
        self.black, self.photographs = [low for low, _ in limits], set(limits) == {BYTES}
        if not self.photographs:  # ((x - low) / (high - low) - mean) / std, as one mean and deviation
            mean = [(low + m * (high - low)) / 255 for m, (low, high) in zip(mean, limits, strict=True)]
            std = [s * (high - low) / 255 for s, (low, high) in zip(std, limits, strict=True)]
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary
        self.num_classes, self.align_corners = num_classes, align_corners
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def in_channels(self) -> int:
        """Bands of an image: as many as there are means."""
        return len(self.mean)

    def normalize(self, image: Tensor) -> Tensor:
        """Image (B, bands, H, W) as stored to normalized values in the model's precision, on its device."""
        precise = torch.promote_types(self.mean.dtype, torch.float32)  # half precision rounds the bytes
        image = image.to(self.mean.device, precise)
        return ((image / 255 - self.mean) / self.std).to(self.mean.dtype)

    def forward(self, image: Tensor, *, at: Literal["image", "head"] = "image") -> Logits:
        """Image (B, bands, H, W), integers as stored or normalized, to logits (B, K, H, W).

        In training come auxiliary ones. Floats as stored are to be normalized before.

        Args:
            image: normalized here if it is of integers.
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
        if not image.is_floating_point():
            image = self.normalize(image)
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
