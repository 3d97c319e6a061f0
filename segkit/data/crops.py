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
from PIL import Image  # comes with torchvision

FILTERS = {  # PIL's filter, and its radius in source pixels (in target pixels when it shrinks)
    "pil_bilinear": (Image.Resampling.BILINEAR, 1.0),
    "pil_bicubic": (Image.Resampling.BICUBIC, 2.0),
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
    """
    if resize == "opencv_linear":
        if crop.scaled != image.shape[:2]:
            image = restore_band_axis(cv2.resize(image, crop.scaled[::-1], interpolation=cv2.INTER_LINEAR))
        part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        if crop.is_flipped:
            return restore_band_axis(cv2.flip(part, 1))
        return np.ascontiguousarray(part)
    filter, radius = FILTERS[resize]
    rows, top, bottom = _source_span(crop.top, crop.height, image.shape[0], crop.scaled[0], radius)
    columns, left, right = _source_span(crop.left, crop.width, image.shape[1], crop.scaled[1], radius)
    source = _select_columns(image[rows], columns, is_flipped=crop.is_flipped)
    size, box = (crop.width, crop.height), (left, top, right, bottom)
    if source.dtype == np.uint8 and source.shape[2] == 3:
        return resize_pillow(source, size, filter, box)
    return np.dstack([_resize_band(source[..., band], size, filter, box) for band in range(source.shape[2])])


def resize_pillow(
    image: np.ndarray,
    size: tuple[int, int],
    filter: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize an image (H, W) or (H, W, 3), first its columns, then its rows.

    Pillow 13 chooses the order by cost, and rounds to integers in between: a crop would then differ from the
    full image by up to 17 levels. Earlier versions, which the published recipes used, have this order.

    Args:
        image: uint8, or float32 of one band.
        size: width and height of the result.
        filter: of Pillow.
        box: left, top, right and bottom of the part that is resized; None: all of it.
    """
    left, top, right, bottom = box or (0, 0, image.shape[1], image.shape[0])
    pillow = Image.fromarray(image)
    wide = pillow.resize((size[0], image.shape[0]), filter, (left, 0, right, image.shape[0]))
    return np.array(wide.resize(size, filter, (0, top, size[0], bottom)))


def _resize_band(
    band: np.ndarray, size: tuple[int, int], filter: Image.Resampling, box: tuple[float, float, float, float]
) -> np.ndarray:
    """Resize one band; 16-bit integers go through float32, which holds them, as PIL resizes only both."""
    if band.dtype in (np.uint8, np.float32):
        return resize_pillow(np.ascontiguousarray(band), size, filter, box)
    resized = np.rint(resize_pillow(band.astype(np.float32), size, filter, box))
    limits = np.iinfo(band.dtype)  # bicubic overshoots
    return resized.clip(limits.min, limits.max).astype(band.dtype)


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
    """Return the crop rotated about its center; labels with nearest neighbor, images linearly.

    Args:
        array: (H, W), a label, or (H, W, C), an image.
        crop: in coordinates of the scaled image.
        angle: in degrees.
        resize: of the image.
        fill: value of each band outside the image.
    """
    is_image = array.ndim == 3
    if is_image and resize in FILTERS and crop.scaled[0] < array.shape[0]:  # warpAffine would skip pixels
        array = crop_image(array, Crop(crop.scaled, 0, 0, *crop.scaled), resize)
    zoom_y, zoom_x = crop.scaled[0] / array.shape[0], crop.scaled[1] / array.shape[1]
    to_crop = np.array(
        [
            [zoom_x, 0, (zoom_x - 1) / 2 - crop.left],
            [0, zoom_y, (zoom_y - 1) / 2 - crop.top],
            [0, 0, 1],
        ]
    )
    center = ((crop.width - 1) / 2, (crop.height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(center, angle, 1.0) @ to_crop
    size, interpolation = (crop.width, crop.height), cv2.INTER_NEAREST
    if is_image:
        interpolation = cv2.INTER_LINEAR
    if is_image and array.shape[2] != 3:  # OpenCV warps at most four bands
        planes = [np.ascontiguousarray(array[..., band]) for band in range(array.shape[2])]
        warped = [
            cv2.warpAffine(plane, matrix, size, flags=interpolation, borderValue=value)
            for plane, value in zip(planes, fill, strict=True)
        ]
        part = np.dstack(warped)
    else:
        part = cv2.warpAffine(array, matrix, size, flags=interpolation, borderValue=tuple(fill))
    if crop.is_flipped:
        part = cv2.flip(part, 1)
    if is_image:
        return restore_band_axis(part)
    return part


def _source_span(
    start: int, length: int, full: int, scaled: int, radius: float
) -> tuple[slice, float, float]:
    """Return the source pixels that a part of a scaled side depends on, and the part's ends among them."""
    first, last = start * full / scaled, (start + length) * full / scaled
    margin = radius * max(1.0, full / scaled) + 1
    begin, end = max(0, math.floor(first - margin)), min(full, math.ceil(last + margin))
    return slice(begin, end), first - begin, min(last, full) - begin


def _select_columns(rows: np.ndarray, columns: slice, *, is_flipped: bool) -> np.ndarray:
    """Return columns of an image; of a flipped one, counted from the right and in reverse."""
    if not is_flipped:
        return np.ascontiguousarray(rows[:, columns])
    width = rows.shape[1]
    return restore_band_axis(cv2.flip(rows[:, width - columns.stop : width - columns.start], 1))


def _nearest_by_center(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """Return the source pixel under the center of each target pixel; summed as in PIL, with its rounding."""
    steps = np.full(start + length, full / scaled)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps)[start:].astype(np.intp), full - 1)


def _nearest_by_corner(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """Return the source pixel under the upper left corner of each target pixel, rounded as in OpenCV."""
    factor = 1.0 / (scaled / full)
    return np.minimum((np.arange(start, start + length) * factor).astype(np.intp), full - 1)
