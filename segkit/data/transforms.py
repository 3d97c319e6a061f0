"""What is drawn for one sample: scale, crop, mirror, rotation, colour, blur. All of it from one seed.

Geometry is window-first: the crop is chosen in the coordinates of the scaled picture, and only the source
pixels under it are scaled. A crop of 768 from a 2048x1024 picture then costs a fraction of scaling the whole
picture, and is the same to within half a source pixel. Colour and blur see the crop only.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from segkit.settings import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Size
from segkit.types import IGNORE_INDEX, Sample

Transform = Callable[[Sample, int], Sample]  # (as read, draw seed) -> as trained on


class Window(NamedTuple):
    """A crop of the scaled picture: the picture's size after scaling, and the crop's place and size in it."""

    scaled: tuple[int, int]  # height, width
    top: int
    left: int
    height: int
    width: int


def build(
    *,
    crop_size: Size | None,
    base_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None,
    scales: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0),
    mirror: Fraction = 0.5,
    rotation: NonNegativeFloat = 0.0,
    one_class_at_most: Fraction = 1.0,
    colour: Fraction = 0.0,
    blur: Fraction = 0.0,
) -> Transform:
    """The transform of one sample.

    Args:
        crop_size: of what comes out, padded right and below where the picture is smaller; ``None``: the whole
            picture.
        base_size: what scale 1 means. One number: the LONG side gets this length (a whole number, drawn
            uniformly, as PyTorch-Encoding does). Two numbers: the picture is scaled to fit into them, longer
            to longer (mmsegmentation). ``None``: its own size.
        scales: least and greatest, drawn uniformly.
        mirror: how often left and right are exchanged.
        rotation: greatest turn in degrees, either way, about the centre of the crop.
        one_class_at_most: a crop in which one class has more than this share of the scored pixels is drawn
            again, up to ten times.
        colour: how often each of brightness, contrast, saturation and hue is changed.
        blur: how often a Gaussian of standard deviation up to 1 pixel is applied.

    Raises:
        ValueError: the scales are not in order.
    """
    if len(scales) != 2 or scales[0] > scales[1]:
        raise ValueError(
            f"augment.scales={list(scales)}: the least and the greatest scale are meant, in this order"
        )
    crop = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    photometric = _photometric(colour, blur) if colour or blur else None

    def transform(sample: Sample, seed: int) -> Sample:
        draw = np.random.default_rng(seed)
        image, label, name = sample
        flipped = draw.random() < mirror
        scaled = _scaled_size(draw, label.shape, base_size, scales)
        angle = draw.uniform(-rotation, rotation) if rotation else 0.0
        window = _place(draw, scaled, crop or scaled)
        part = cut(label, window, angle, cv2.INTER_NEAREST_EXACT, IGNORE_INDEX)
        for _ in range(9):
            if one_class_at_most == 1 or _greatest_share(part) <= one_class_at_most:
                break
            window = _place(draw, scaled, crop or scaled)
            part = cut(label, window, angle, cv2.INTER_NEAREST_EXACT, IGNORE_INDEX)
        image, label = cut(image, window, angle, cv2.INTER_LINEAR, 0), part
        if flipped:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if photometric is not None:
            # set_random_seed would give every step the same draws: all of them happen, or none
            photometric.set_random_state(draw, random.Random(int(draw.integers(1 << 32))))
            image = photometric(image=image)["image"]
        return Sample(_padded(image, crop, 0), _padded(label, crop, IGNORE_INDEX), name)

    return transform


def cut(array: np.ndarray, window: Window, angle: float, interpolation: int, fill: int) -> np.ndarray:
    """The window of the array as it would be after scaling, without scaling the rest.

    Args:
        array: (H, W) or (H, W, 3).
        window: what to cut.
        angle: turn about the window's centre in degrees; what comes from outside the picture gets ``fill``.
        interpolation: of OpenCV.
        fill: value outside the picture.
    """
    size = (window.width, window.height)
    if angle:
        return _cut_turned(array, window, angle, interpolation, fill)
    rows, source_height = _source(window.top, window.height, array.shape[0], window.scaled[0])
    columns, source_width = _source(window.left, window.width, array.shape[1], window.scaled[1])
    part = array[rows, columns]
    if (source_height, source_width) == (window.height, window.width):
        return np.ascontiguousarray(part)
    if interpolation == cv2.INTER_LINEAR and 2 * window.height < source_height:
        interpolation = cv2.INTER_AREA  # linear would skip pixels
    return cv2.resize(part, size, interpolation=interpolation)


def _source(start: int, length: int, full: int, scaled: int) -> tuple[slice, int]:
    """Those of ``full`` pixels that lie under ``start .. start + length`` after scaling to ``scaled``."""
    count = max(1, round(length * full / scaled))
    first = min(round(start * full / scaled), full - count)
    return slice(first, first + count), count


def _cut_turned(array: np.ndarray, window: Window, angle: float, interpolation: int, fill: int) -> np.ndarray:
    zoom = np.array([window.scaled[1] / array.shape[1], window.scaled[0] / array.shape[0]])
    centre = np.array([window.width - 1, window.height - 1]) / 2
    turned = cv2.getRotationMatrix2D(tuple(centre), angle, 1.0)  # acts on pixels of the window
    scale = np.array(
        [
            [zoom[0], 0, (zoom[0] - 1) / 2 - window.left],
            [0, zoom[1], (zoom[1] - 1) / 2 - window.top],
            [0, 0, 1],
        ]
    )
    nearest = interpolation == cv2.INTER_NEAREST_EXACT
    return cv2.warpAffine(
        array,
        turned @ scale,
        (window.width, window.height),
        flags=cv2.INTER_NEAREST if nearest else interpolation,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 3,
    )


def _scaled_size(
    draw: np.random.Generator,
    size: tuple[int, ...],
    base_size: int | Sequence[int] | None,
    scales: Sequence[float],
) -> tuple[int, int]:
    """(height, width) after scaling."""
    height, width = size
    if isinstance(base_size, int):
        longest = int(draw.integers(int(base_size * scales[0]), int(base_size * scales[1]) + 1))
        if height > width:
            return longest, max(1, int(width * longest / height + 0.5))
        return max(1, int(height * longest / width + 0.5)), longest
    factor = draw.uniform(scales[0], scales[1])
    if base_size is not None:
        bounds = [int(side * factor) for side in base_size]
        factor = min(max(bounds) / max(size), min(bounds) / min(size))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def _place(draw: np.random.Generator, scaled: tuple[int, int], crop: Sequence[int]) -> Window:
    """A crop anywhere in the scaled picture; all of a side that is not longer than the crop."""
    height, width = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    top, left = draw.integers((scaled[0] - height + 1, scaled[1] - width + 1))
    return Window(scaled, int(top), int(left), height, width)


def _greatest_share(label: np.ndarray) -> float:
    counts = np.bincount(label.ravel(), minlength=256)[:IGNORE_INDEX]
    return counts.max() / max(1, counts.sum())


def _padded(array: np.ndarray, crop: Sequence[int] | None, fill: int) -> np.ndarray:
    below, right = (0, 0) if crop is None else (crop[0] - array.shape[0], crop[1] - array.shape[1])
    if not below and not right:
        return array
    return cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(fill,) * 3)


def _photometric(colour: float, blur: float) -> Any:
    """Jitter as strong as mmsegmentation's (its hue of 18 is a tenth of the circle), then the blur."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network when imported
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # how albumentations reports arguments it does not know
        import albumentations

        steps = [
            albumentations.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=colour),
            albumentations.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=colour),
            albumentations.ColorJitter((1, 1), (1, 1), saturation=(0.5, 1.5), hue=(0, 0), p=colour),
            albumentations.ColorJitter((1, 1), (1, 1), saturation=(1, 1), hue=(-0.1, 0.1), p=colour),
            albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=blur),
        ]
        return albumentations.Compose([step for step in steps if step.p])
