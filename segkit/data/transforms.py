"""What is drawn for one sample: scale, crop, mirror, rotation, color, blur. All of it from one seed.

Geometry is window-first: the crop is chosen in the coordinates of the scaled image, and only the source
pixels under it are scaled (``segkit.data.crops``). Color and blur see the crop only; padding comes last.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from segkit.config import Fraction, Range, registry
from segkit.data import color
from segkit.data.crops import Crop, crop_image, crop_label, crop_rotated, restore_band_axis
from segkit.types import Bands, Sample, ignore_index_of

Transform = Callable[[Sample, int], Sample]  # (as read, draw seed) -> as trained on

PADDING = {"black": (0, 0, 0), "mean": (124, 116, 104)}  # ImageNet's mean, zero once it is normalized
MAX_SIDE = 32767  # pixels of a side that OpenCV can scale


@dataclass(frozen=True)
class Augmentation:
    """The transform of one sample; it can be pickled, so workers may be forked or spawned.

    Attributes:
        crop_size: of what comes out, padded right and below where the image is smaller; ``None``: the whole
            image.
        base_size: what scale 1 means. One number: the LONG side gets this length (a whole number, drawn
            uniformly, as PyTorch-Encoding does). Two numbers: the image is scaled to fit into them, longer
            to longer (mmsegmentation). ``None``: its own size.
        scales: least and greatest, drawn uniformly.
        resize: ``pil_bilinear`` averages when it shrinks (PyTorch-Encoding, GluonCV), and so does
            ``pil_bicubic`` (later versions of PyTorch-Encoding); ``opencv_linear`` skips pixels then, and
            scales the whole image (mmcv). Labels go to the nearest neighbor of the same toolkit.
        hflip: how often left and right are exchanged.
        rotation: greatest turn in degrees, either way, about the center of the crop.
        max_class_ratio: a crop in which one class does not have less than this share of the scored pixels,
            or that has fewer than two classes, is drawn again, up to ten times; 1: never.
        color_jitter: how often each of brightness, contrast, saturation and hue is changed (mmsegmentation);
            bands that are no photograph have brightness and contrast only, in the same shares of their range.
        blur: how often a Gaussian of standard deviation up to 1 pixel is applied. PIL's own, which GluonCV
            uses, is an approximation of it that differs by 0.4 gray levels.
        padding: ``black`` (the original), or ``mean``: the mean color, in whole gray levels, which is zero
            once it is normalized (mmsegmentation); black is the lowest value of ``data.range``.
        extra: further changes of the crop before it is padded, by the names of plug-ins' components in
            ``data/augmentations``: true, or settings; each is called with the sample and its generator.
    """

    crop_size: (
        Annotated[int, Range(least=1, most=8192)]
        | tuple[Annotated[int, Range(least=1, most=8192)], Annotated[int, Range(least=1, most=8192)]]
        | None
    )
    base_size: (
        Annotated[int, Range(least=16, most=16384)]
        | tuple[Annotated[int, Range(least=16, most=16384)], Annotated[int, Range(least=16, most=16384)]]
        | None
    ) = None
    scales: tuple[
        Annotated[float, Range(least=0.01, most=16)], Annotated[float, Range(least=0.01, most=16)]
    ] = (0.5, 2.0)
    resize: Literal["pil_bilinear", "pil_bicubic", "opencv_linear"] = "pil_bilinear"
    hflip: Fraction = 0.5
    rotation: Annotated[float, Range(least=0, most=180)] = 0.0
    max_class_ratio: Fraction = 1.0
    color_jitter: Fraction = 0.0
    blur: Fraction = 0.0
    padding: Literal["black", "mean"] = "black"
    extra: dict[str, dict | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_changes", registry.build_enabled("data.augmentations", self.extra))
        if len(self.scales) != 2 or self.scales[0] > self.scales[1]:
            raise ValueError(
                f"augment.scales={list(self.scales)}: the least and the greatest scale are meant,"
                " in this order"
            )
        bases = self.base_size if isinstance(self.base_size, tuple | list) else [self.base_size or 0]
        if max(bases) * self.scales[1] > MAX_SIDE:
            raise ValueError(
                f"augment.base_size={self.base_size} at augment.scales={list(self.scales)}: a side would be"
                f" scaled to {max(bases) * self.scales[1]:.0f} pixels; at most {MAX_SIDE} are possible,"
                " so make one of the two smaller"
            )
        if self.blur:
            _blurring(self.blur)  # what is amiss with it shows before workers start

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample as trained on; equal seeds draw equally."""
        draw = np.random.default_rng(seed)
        image, label, name, bands = sample
        fill = _padding_values(self.padding, bands, image.shape[2])
        mirrored = bool(draw.random() < self.hflip)
        scaled = _scaled_size(draw, label.shape, self.base_size, self.scales)
        angle = draw.uniform(-self.rotation, self.rotation) if self.rotation else 0.0
        crop = (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size
        window, label = self._crop(draw, label, _CropSampler(scaled, crop or scaled, mirrored), angle)
        image = self._cut(image, window, angle, fill)
        if self.color_jitter and bands.photographs:
            image = color.distort(image, draw, self.color_jitter)
        elif self.color_jitter:
            image = color.distort_bands(image, draw, self.color_jitter, bands.value_ranges(image.shape[2]))
        if self.blur and not bands.photographs:
            image = _blurred(image, draw, self.blur)
        elif self.blur:
            # set_random_seed would give every step the same draws: all of them happen, or none
            blurring = _blurring(self.blur)
            blurring.set_random_state(draw, random.Random(int(draw.integers(1 << 32))))
            image = blurring(image=image)["image"]
        for change in vars(self)["_changes"].values():
            image, label, name, _ = change(Sample(image, label, name, bands), draw)
        return Sample(_pad(image, crop, fill), _pad(label, crop, (ignore_index_of(label),)), name, bands)

    def _crop(
        self, draw: np.random.Generator, label: np.ndarray, place: _CropSampler, angle: float
    ) -> tuple[Crop, np.ndarray]:
        """A window and the label under it; it is drawn again while one class fills it."""
        window = place.draw(draw)
        part = self._cut(label, window, angle, (ignore_index_of(label),))
        if self.max_class_ratio < 1:
            for _ in range(10):
                if _is_mixed(part, self.max_class_ratio):
                    break
                window = place.draw(draw)
                part = self._cut(label, window, angle, (ignore_index_of(label),))
        return window, part

    def _cut(self, array: np.ndarray, window: Crop, angle: float, fill: Sequence[float]) -> np.ndarray:
        if angle:
            return crop_rotated(array, window, angle, resize=self.resize, fill=fill)
        return (crop_image if array.ndim == 3 else crop_label)(array, window, self.resize)


build = Augmentation  # as every other component is made


@dataclass(frozen=True)
class _CropSampler:
    """Where a crop may lie: anywhere in the scaled image; all of a side that is not longer than the crop."""

    scaled: tuple[int, int]
    crop: Sequence[int]
    mirrored: bool

    def draw(self, draw: np.random.Generator) -> Crop:
        height, width = min(self.crop[0], self.scaled[0]), min(self.crop[1], self.scaled[1])
        top, left = draw.integers((self.scaled[0] - height + 1, self.scaled[1] - width + 1))
        return Crop(self.scaled, int(top), int(left), height, width, self.mirrored)


def _scaled_size(
    draw: np.random.Generator,
    size: tuple[int, ...],
    base_size: int | Sequence[int] | None,
    scales: Sequence[float],
) -> tuple[int, int]:
    """(height, width) after scaling."""
    height, width = size
    if isinstance(base_size, int):
        longest = max(1, int(draw.integers(int(base_size * scales[0]), int(base_size * scales[1]) + 1)))
        if height > width:
            return longest, max(1, int(width * longest / height + 0.5))
        return max(1, int(height * longest / width + 0.5)), longest
    factor = draw.uniform(scales[0], scales[1])
    if base_size is not None:
        bounds = [int(side * factor) for side in base_size]
        factor = min(max(bounds) / max(size), min(bounds) / min(size))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def max_scaled_size(size: Sequence[int], augment: Augmentation) -> tuple[int, int]:
    """Return (height, width) of an image of a size at the greatest scale."""
    if isinstance(augment.base_size, int):
        factor = augment.base_size * augment.scales[1] / max(size)
    elif augment.base_size is None:
        factor = augment.scales[1]
    else:
        bounds = augment.base_size
        factor = min(max(bounds) / max(size), min(bounds) / min(size)) * augment.scales[1]
    return round(size[0] * factor), round(size[1] * factor)


def _is_mixed(label: np.ndarray, share: float) -> bool:
    """Whether two classes or more are scored, and the most frequent has less than this share of it."""
    counts = np.bincount(label[label != ignore_index_of(label)])
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < share)


def _pad(array: np.ndarray, crop: Sequence[int] | None, fill: Sequence[float]) -> np.ndarray:
    below, right = (0, 0) if crop is None else (crop[0] - array.shape[0], crop[1] - array.shape[1])
    if not below and not right:
        return array
    if array.ndim == 2 or array.shape[2] == 3:
        return cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=tuple(fill))
    canvas = np.empty((*crop, array.shape[2]), array.dtype)  # type: ignore[misc]
    canvas[:] = np.asarray(fill, array.dtype)
    canvas[: array.shape[0], : array.shape[1]] = array
    return canvas


def _padding_values(padding: str, bands: Bands, count: int) -> Sequence[float]:
    """What lies beyond an image: the black of its bands, or ImageNet's mean of photographs."""
    if bands.photographs:
        return PADDING[padding]
    if padding == "mean":
        raise ValueError(
            "augment.padding=mean is the mean color of photographs; with data.bands or data.range choose "
            "augment.padding=black"
        )
    return [low for low, _ in bands.value_ranges(count)]


def _blurred(image: np.ndarray, draw: np.random.Generator, often: float) -> np.ndarray:
    """Bands that are no photograph, under a Gaussian of deviation up to 1 pixel."""
    if draw.random() >= often or (deviation := draw.uniform(0.0, 1.0)) < 0.1:
        return image
    return restore_band_axis(cv2.GaussianBlur(image, (0, 0), deviation))


@cache
def _blurring(often: float) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network when imported
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # how albumentations reports arguments it does not know
        import albumentations

        return albumentations.Compose(
            [albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.0, 1.0), p=often)]
        )
