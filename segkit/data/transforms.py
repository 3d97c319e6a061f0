"""Random augmentation of one sample: scale, crop, flip, rotation, color, blur; all from one seed.

The crop is chosen in the coordinates of the scaled image, and only the source pixels under it are resized
(``segkit.data.crops``). Color and blur are applied to the crop; padding comes last.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import cv2
import numpy as np

from segkit.config import Fraction, Interval, registry
from segkit.data import color
from segkit.data.crops import Crop, crop_image, crop_label, crop_rotated, restore_band_axis
from segkit.data.pixel_transforms import PixelTransforms
from segkit.types import Bands, Sample, label_ignore_index

Transform = Callable[[Sample, int], Sample]  # (sample as read, seed) -> sample as trained on

PADDING = {"black": (0, 0, 0), "mean": (124, 116, 104)}  # ImageNet's mean, zero once it is normalized
MAX_RETRIES = 10  # for a crop that one class fills
MAX_SIDE = 32767  # pixels of a side that OpenCV can resize to
CropSize = Annotated[int, Interval(ge=1, le=8192)]
BaseSize = Annotated[int, Interval(ge=16, le=16384)]
Scale = Annotated[float, Interval(ge=0.01, le=16)]


@dataclass
class Augmentation:
    """Transform of one sample. It can be pickled, so workers may be forked or spawned.

    Attributes:
        crop_size: side, or (height, width), of the result, padded right and below where the image is
            smaller; ``None``: the full scaled image.
        base_size: size at scale 1. One number: the LONG side (a whole number, uniform, as in
            PyTorch-Encoding). Two numbers: the image is scaled to fit into them, longer side to longer
            (mmsegmentation). ``None``: its own size.
        scales: lowest and highest scale; uniform between them.
        resize: ``pil_bilinear`` and ``pil_bicubic`` average when they shrink (PyTorch-Encoding, GluonCV);
            ``opencv_linear`` skips pixels and resizes the full image (mmcv). Labels use the nearest neighbor
            of the same library.
        hflip: probability of a horizontal flip.
        rotation: largest angle in degrees, in either direction, about the center of the crop.
        max_class_ratio: a crop is sampled again, up to ten times, while one class has at least this share
            of its scored pixels, or it has fewer than two classes; 1: never.
        class_uniform_crop: probability that a crop contains a pixel of a class drawn uniformly from those of
            the image, so that rare classes are in more crops (class uniform sampling, arXiv 1812.01593).
            Rotation may move the pixel out of the crop.
        color_jitter: probability of each of brightness, contrast, saturation and hue (mmsegmentation).
            Images other than photographs get brightness and contrast only, relative to their value range.
        blur: probability of a Gaussian blur with a standard deviation of up to 1 pixel. PIL's, which GluonCV
            uses, is an approximation that differs by 0.4 gray levels.
        albumentations: pixel-level transforms of albumentations by name, such as
            ``[{name: CLAHE, p: 0.2}]``; the other keys are their arguments.
        padding: ``black`` (lowest value of ``data.range``), or ``mean``: ImageNet's mean color, which is
            zero once it is normalized (mmsegmentation).
        extra: transforms of plug-ins (``data/augmentations``) by name: true, or their settings. Each is
            called with the sample and the random generator, before padding.
    """

    crop_size: CropSize | tuple[CropSize, CropSize] | None
    base_size: BaseSize | tuple[BaseSize, BaseSize] | None = None
    scales: tuple[Scale, Scale] = (0.5, 2.0)
    resize: Literal["pil_bilinear", "pil_bicubic", "opencv_linear"] = "pil_bilinear"
    hflip: Fraction = 0.5
    rotation: Annotated[float, Interval(ge=0, le=180)] = 0.0
    max_class_ratio: Fraction = 1.0
    class_uniform_crop: Fraction = 0.0
    color_jitter: Fraction = 0.0
    blur: Fraction = 0.0
    albumentations: list[dict] = field(default_factory=list)
    padding: Literal["black", "mean"] = "black"
    extra: dict[str, dict | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._extra = registry.build_enabled("data.augmentations", self.extra)
        self._pixel_transforms = PixelTransforms(self.albumentations)
        scales = list(self.scales)
        if scales[0] > scales[1]:
            raise ValueError(f"augment.scales={scales}: must be [lowest, highest]. Swap the two numbers")
        base = self.base_size
        longest = max(base) if isinstance(base, tuple | list) else base or 0
        if longest * scales[1] > MAX_SIDE:
            raise ValueError(
                f"augment.base_size={base} at augment.scales={scales}: a side would be resized to "
                f"{longest * scales[1]:.0f} pixels; at most {MAX_SIDE} are possible. Make one of the two "
                "smaller"
            )

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return the augmented sample; equal seeds give equal results."""
        draw = np.random.default_rng(seed)
        image, label, name, bands = sample
        padding = _padding_values(self.padding, bands, image.shape[2])
        is_flipped = bool(draw.random() < self.hflip)
        scaled = _sample_scaled_size(draw, label.shape, self.base_size, self.scales)
        angle = draw.uniform(-self.rotation, self.rotation) if self.rotation else 0.0
        crop_size = self.crop_size
        if isinstance(crop_size, int):
            crop_size = (crop_size, crop_size)
        outside, original = (label_ignore_index(label),), label
        is_flipped_first = is_flipped and self.resize != "opencv_linear" and not angle
        upright = label[:, ::-1] if is_flipped_first else label
        tries = 0
        while True:
            crop = self._sample_crop(draw, scaled, crop_size or scaled, upright)
            crop = crop._replace(is_flipped=is_flipped)
            label = self._cut(original, crop, angle, outside)
            tries += 1
            if tries > MAX_RETRIES or self.max_class_ratio == 1 or _is_mixed(label, self.max_class_ratio):
                break
        image = self._cut(image, crop, angle, padding)
        if self.color_jitter and bands.is_photograph:
            image = color.distort(image, draw, self.color_jitter)
        elif self.color_jitter:
            image = color.distort_bands(image, draw, self.color_jitter, bands.value_ranges(image.shape[2]))
        if self.blur:
            image = _blur(image, draw, self.blur)
        image = self._pixel_transforms(image, draw, bands)
        for transform in self._extra.values():
            image, label, name, _ = transform(Sample(image, label, name, bands), draw)
        if crop_size is not None:
            image = _pad(image, crop_size, padding)
            label = _pad(label, crop_size, outside)
        return Sample(image, label, name, bands)

    def _sample_crop(
        self, draw: np.random.Generator, scaled: tuple[int, int], crop_size: Sequence[int], label: np.ndarray
    ) -> Crop:
        """Return a uniform crop; it has all of a side that is not longer than the crop.

        With a probability the crop is uniform among those that contain a pixel of a random class.
        """
        sides: np.ndarray = np.minimum(crop_size, scaled)
        lowest: np.ndarray = np.zeros(2, np.int64)
        highest: np.ndarray = scaled - sides
        if self.class_uniform_crop and draw.random() < self.class_uniform_crop:
            pixel = _sample_class_pixel(draw, label, scaled)
            lowest = np.maximum(lowest, pixel - sides + 1)
            highest = np.minimum(highest, pixel)
        top, left = draw.integers(lowest, highest + 1).tolist()
        return Crop(scaled, top, left, *sides.tolist())

    def _cut(self, array: np.ndarray, crop: Crop, angle: float, padding: Sequence[float]) -> np.ndarray:
        if angle:
            return crop_rotated(array, crop, angle, resize=self.resize, fill=padding)
        if array.ndim == 3:
            return crop_image(array, crop, self.resize)
        return crop_label(array, crop, self.resize)


build = Augmentation  # the name that components are built by


def _sample_class_pixel(draw: np.random.Generator, label: np.ndarray, scaled: Sequence[int]) -> np.ndarray:
    """Return (row, column) of a pixel of a random class, in the image scaled to (height, width) ``scaled``.

    Any pixel is returned if none is labeled.
    """
    counts = np.bincount(label.ravel())
    counts[label_ignore_index(label) :] = 0
    if not counts.any():
        return draw.integers(scaled)
    positions = np.flatnonzero(label == draw.choice(np.flatnonzero(counts)))
    place = np.unravel_index(positions[draw.integers(len(positions))], label.shape)
    return ((np.array(place) + 0.5) * scaled / label.shape).astype(np.int64)


def _sample_scaled_size(
    draw: np.random.Generator,
    size: tuple[int, ...],
    base_size: int | Sequence[int] | None,
    scales: Sequence[float],
) -> tuple[int, int]:
    """Return (height, width) after scaling."""
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
    """Return (height, width) of an image of (height, width) ``size`` at the highest scale."""
    base, factor = augment.base_size, augment.scales[1]
    if isinstance(base, int):
        factor = base * factor / max(size)
    elif base is not None:
        factor = min(max(base) / max(size), min(base) / min(size)) * factor
    return round(size[0] * factor), round(size[1] * factor)


def _is_mixed(label: np.ndarray, share: float) -> bool:
    """Return whether two or more classes are scored, and the most frequent has less than ``share``."""
    counts = np.bincount(label[label != label_ignore_index(label)])
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < share)


def _pad(array: np.ndarray, size: Sequence[int], values: Sequence[float]) -> np.ndarray:
    """Return an array padded right and below to (height, width) ``size``."""
    if array.shape[:2] == tuple(size):
        return array
    canvas = np.empty((*size, *array.shape[2:]), array.dtype)
    canvas[:] = np.full(canvas.shape[1:], values, array.dtype)  # whole rows are copied faster than pixels
    canvas[: array.shape[0], : array.shape[1]] = array
    return canvas


def _padding_values(padding: str, bands: Bands, count: int) -> Sequence[float]:
    """Return the value of each band outside the image."""
    if bands.is_photograph:
        return PADDING[padding]
    if padding == "mean":
        raise ValueError(
            "augment.padding=mean is the mean color of photographs; with data.bands or data.range choose "
            "augment.padding=black"
        )
    return [low for low, _ in bands.value_ranges(count)]


def _blur(image: np.ndarray, draw: np.random.Generator, probability: float) -> np.ndarray:
    """Blur with a probability, by a Gaussian of standard deviation 0 to 1 pixel, cut at 3.5 deviations.

    Sampling order and kernel are those of albumentations' GaussianBlur, which earlier trainings used.
    """
    chance = random.Random(int(draw.integers(1 << 32)))
    chance.random()
    if probability < 1 and chance.random() >= probability:
        return image
    sigma = chance.uniform(0.0, 1.0)
    radius = int(sigma * 3.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    return restore_band_axis(cv2.sepFilter2D(image, -1, kernel, kernel))
