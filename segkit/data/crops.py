"""Crop a resized image without resizing all of it.

The two libraries differ. PIL averages when it shrinks (its filter covers more source pixels), and its
nearest neighbor samples at the center of a pixel. OpenCV's linear filter always takes the two nearest source
pixels in each direction, so it skips pixels when it shrinks; its nearest neighbor samples at the upper left
corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

FILTERS = {  # of torch, and the radius in source pixels (in target pixels when it shrinks)
    "pil_bilinear": ("_upsample_bilinear2d_aa", 1.0),
    "pil_bicubic": ("_upsample_bicubic2d_aa", 2.0),
}


class Crop(NamedTuple):
    """Crop of the scaled image.

    ``is_flipped`` follows the libraries: with PIL the image is flipped, then scaled; with OpenCV the crop is
    flipped.
    """

    scaled: tuple[int, int]  # (height, width) of the image after scaling
    top: int
    left: int
    height: int
    width: int
    is_flipped: bool = False


def crop_image(image: np.ndarray, crop: Crop, resize: str) -> np.ndarray:
    """Return the crop (h, w, C) of the scaled image.

    Args:
        image: (H, W, C), uint8, uint16, int16 or float32.
        crop: in coordinates of the scaled image.
        resize: ``pil_bilinear`` or ``pil_bicubic`` resize only the source of the crop; ``opencv_linear``
            resizes all of it, since OpenCV cannot start between two pixels.

    Pillow resizes first columns, then rows, and rounds to integers in between (Pillow 13 chooses the order by
    cost). So does this function with torch, whose kernels for bytes are 3 to 5 times as fast; a few pixels in
    a thousand differ from Pillow's, by one level, seldom two.
    """
    if resize == "opencv_linear":
        if crop.scaled != image.shape[:2]:
            image = restore_band_axis(cv2.resize(image, crop.scaled[::-1], interpolation=cv2.INTER_LINEAR))
        part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        if crop.is_flipped:
            return restore_band_axis(cv2.flip(part, 1))
        return np.ascontiguousarray(part)
    dtype = image.dtype
    if dtype not in (np.uint8, np.float32):
        image = image.astype(np.float32)  # holds 16-bit integers
    filter, radius = FILTERS[resize]
    full_height, full_width, bands = image.shape
    first, rows = _source_span(crop.top, crop.height, full_height, crop.scaled[0], radius)
    _, columns = _source_span(crop.left, crop.width, full_width, crop.scaled[1], radius)
    if crop.is_flipped:
        source = restore_band_axis(cv2.flip(image[first:rows, full_width - columns :], 1))
    else:
        source = image[first:rows, :columns].copy()  # writable, as torch requires
    zoom_y, zoom_x = crop.scaled[0] / full_height, crop.scaled[1] / full_width
    width = _output_length(columns, crop.left + crop.width, zoom_x)
    wide = _resize_with_torch(source, (rows - first, width), filter, (1.0, zoom_x))
    source = np.zeros((rows, crop.width, bands), image.dtype)  # no row of the crop depends on the zeros
    source[first:] = wide[:, crop.left : crop.left + crop.width]
    height = _output_length(rows, crop.top + crop.height, zoom_y)
    resized = _resize_with_torch(source, (height, crop.width), filter, (zoom_y, 1.0))
    part = np.ascontiguousarray(resized[crop.top : crop.top + crop.height])
    if part.dtype != dtype:
        limits = np.iinfo(dtype)  # bicubic overshoots
        return np.rint(part).clip(limits.min, limits.max).astype(dtype)
    return part


def _source_span(start: int, length: int, full: int, scaled: int, radius: float) -> tuple[int, int]:
    """Return the first source pixel that a part of a scaled side depends on, and the end of them."""
    margin = radius * max(1.0, full / scaled) + 1
    begin, end = start * full / scaled - margin, (start + length) * full / scaled + margin
    return max(0, math.floor(begin)), min(full, math.ceil(end))


def _output_length(source: int, needed: int, zoom: float) -> int:
    """Return how many pixels of a side to resize to: one more than needed if torch would skip the side.

    It skips sides whose length stays equal, even if a scale is given.
    """
    if source == needed and zoom != 1:
        return needed + 1
    return needed


def _resize_with_torch(
    image: np.ndarray, size: tuple[int, int], filter: str, zoom: tuple[float, float]
) -> np.ndarray:
    """Return the first ``size`` (height, width) pixels of an image (h, w, C) scaled by ``zoom``."""
    import torch

    height, width, bands = image.shape
    strides = (height * width * bands, 1, width * bands, bands)  # torch recognizes these as channels-last
    planes = torch.from_numpy(image).as_strided((1, bands, height, width), strides)
    resize = getattr(torch.ops.aten, filter)
    return resize(planes, list(size), False, *zoom)[0].permute(1, 2, 0).numpy()  # noqa: FBT003


def restore_band_axis(image: np.ndarray) -> np.ndarray:
    """Return (H, W, C); OpenCV drops the last axis of images with one band."""
    if image.ndim == 3:
        return image
    return image[..., None]


def crop_label(label: np.ndarray, crop: Crop, resize: str) -> np.ndarray:
    """Return the crop (h, w) of the label (H, W) scaled to the nearest neighbor of the image's library."""
    if resize == "opencv_linear":
        indices = _nearest_by_corner
    else:
        indices = _nearest_by_center
    rows = indices(crop.top, crop.height, label.shape[0], crop.scaled[0])
    columns = indices(crop.left, crop.width, label.shape[1], crop.scaled[1])
    if crop.is_flipped and resize == "opencv_linear":
        columns = columns[::-1]
    elif crop.is_flipped:
        columns = label.shape[1] - 1 - columns
    # indexing the other axis would gather byte by byte
    return cv2.transpose(cv2.transpose(label[rows])[columns])


def crop_rotated(
    array: np.ndarray, crop: Crop, angle: float, *, resize: str, fill: Sequence[float]
) -> np.ndarray:
    """Return the crop rotated about its center by ``angle`` degrees.

    Args:
        array: (H, W), a label, for which the nearest neighbor is taken, or (H, W, C), an image.
        crop: in coordinates of the scaled image.
        angle: in degrees.
        resize: of the image.
        fill: value of each band outside the image.
    """
    is_image = array.ndim == 3
    if is_image and resize in FILTERS and crop.scaled[0] < array.shape[0]:  # warpAffine would skip pixels
        array = crop_image(array, Crop(crop.scaled, 0, 0, *crop.scaled), resize)
    zoom_y, zoom_x = crop.scaled[0] / array.shape[0], crop.scaled[1] / array.shape[1]
    to_crop = np.array([[zoom_x, 0, (zoom_x - 1) / 2], [0, zoom_y, (zoom_y - 1) / 2], [0, 0, 1]])
    to_crop[:2, 2] -= crop.left, crop.top
    center = ((crop.width - 1) / 2, (crop.height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(center, angle, 1.0) @ to_crop
    planes = [array]
    if is_image and array.shape[2] != 3:  # OpenCV warps at most four bands
        planes = [np.ascontiguousarray(array[..., band]) for band in range(array.shape[2])]
    values = np.array(fill).reshape(len(planes), -1).tolist()
    method, size = cv2.INTER_LINEAR if is_image else cv2.INTER_NEAREST, (crop.width, crop.height)
    warped = [
        cv2.warpAffine(plane, matrix, size, flags=method, borderValue=value)
        for plane, value in zip(planes, values, strict=True)
    ]
    part = warped[0] if len(warped) == 1 else np.dstack(warped)
    if crop.is_flipped:
        part = cv2.flip(part, 1)
    if is_image:
        return restore_band_axis(part)
    return part


def _nearest_by_center(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """Return the source pixel under the center of each target pixel; summed as in PIL, with its rounding."""
    steps = np.full(start + length, full / scaled)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps)[start:].astype(np.intp), full - 1)


def _nearest_by_corner(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """Return the source pixel under the upper left corner of each target pixel, rounded as in OpenCV."""
    factor = 1.0 / (scaled / full)
    return np.minimum((np.arange(start, start + length) * factor).astype(np.intp), full - 1)
