"""Photometric distortion equal to mmsegmentation's PhotoMetricDistortion, pixel for pixel.

Brightness, contrast, saturation and hue are each changed with the same probability; contrast comes before or
after the other two, at random. Every step rounds down to integers, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

BRIGHTNESS = 32.0  # gray levels, either way
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18  # of OpenCV's 180 steps: -18 .. 17


def distort(image: np.ndarray, draw: np.random.Generator, probability: float) -> np.ndarray:
    """Return an image (H, W, 3), uint8 RGB, with changed brightness, contrast, saturation and hue.

    Each of the four is changed with the probability.
    """
    if draw.random() < probability:
        image = cv2.LUT(image, _linear_table(1.0, draw.uniform(-BRIGHTNESS, BRIGHTNESS)))
    contrast_comes_first = draw.random() < 0.5
    if contrast_comes_first:
        image = _adjust_contrast(image, draw, probability)
    if draw.random() < probability:
        image = _map_hsv_channel(image, 1, _linear_table(draw.uniform(*SATURATION), 0.0))
    if draw.random() < probability:
        turned = (np.arange(256) + draw.integers(-HUE, HUE)) % 180
        image = _map_hsv_channel(image, 0, turned.astype(np.uint8))
    if not contrast_comes_first:
        image = _adjust_contrast(image, draw, probability)
    return image


def distort_bands(
    image: np.ndarray, draw: np.random.Generator, probability: float, ranges: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Return an image of any bands (H, W, C), of which ``ranges`` has black and white, with changed values.

    Brightness and contrast are each changed with the probability, relative to the range as by ``distort``.
    """
    low, high = np.array(ranges, np.float32).T
    factor, shift = 1.0, 0.0
    if draw.random() < probability:
        shift = draw.uniform(-BRIGHTNESS, BRIGHTNESS) / 255
    if draw.random() < probability:
        factor = draw.uniform(*CONTRAST)
    if (factor, shift) == (1.0, 0.0):
        return image
    values = (image - low) * np.float32(factor) + (low + np.float32(shift) * (high - low))
    if image.dtype == np.float32:
        return values.astype(np.float32)
    limit = np.iinfo(image.dtype)
    return np.rint(values).clip(limit.min, limit.max).astype(image.dtype)


def _adjust_contrast(image: np.ndarray, draw: np.random.Generator, probability: float) -> np.ndarray:
    if draw.random() < probability:
        return cv2.LUT(image, _linear_table(draw.uniform(*CONTRAST), 0.0))
    return image


def _linear_table(factor: float, shift: float) -> np.ndarray:
    """Return the new value of each of 0..255."""
    values = np.arange(256, dtype=np.float32) * factor + shift
    return np.clip(values, 0, 255).astype(np.uint8)


def _map_hsv_channel(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    tables = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    tables[0, :, channel] = table
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables), cv2.COLOR_HSV2RGB)
