"""What travels between modules, and one legend for every shape.

B pictures in a batch, K classes, H x W pixels of a picture, h x w cells of a feature map, C channels,
s a stride. Images are RGB; labels hold class ids 0..K-1 or ``IGNORE_INDEX``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored; so there are at most 255 classes (0..254)."""


class Sample(NamedTuple):
    """One picture with its label, as read or as augmented, on the CPU."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) uint8, class ids
    name: str  # unique in its split: the file's path below the image folder, without suffix


class Batch(NamedTuple):
    """Several samples of one size; uint8 travels, the device normalises."""

    image: Tensor  # (B, 3, H, W) uint8
    label: Tensor  # (B, H, W) uint8
    names: list[str]


class Logits(NamedTuple):
    """What a segmenter returns, in training and in evaluation."""

    main: Tensor  # (B, K, H, W)
    aux: Tensor | None = None  # (B, K, H, W); None without an auxiliary head
