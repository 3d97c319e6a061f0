"""A crop of the scaled image, cut from its source without scaling the rest where that can be had.

Two toolkits, two conventions. PIL averages when it shrinks (the triangle that it lays over the source grows
with the factor), and its nearest neighbor asks at the center of a pixel. OpenCV's linear always takes the
two source pixels next to it each way, so it skips pixels when it shrinks, and its nearest asks at the upper
left corner of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image  # comes with torchvision

FILTERS = {  # what PIL calls it, and how far it reaches on the side that has the larger pixels
    "pil_bilinear": (Image.Resampling.BILINEAR, 1.0),
    "pil_bicubic": (Image.Resampling.BICUBIC, 2.0),
}


class Crop(NamedTuple):
    """A crop of the scaled image: the image's size after scaling, and the crop's place and size in it."""

    scaled: tuple[int, int]  # height, width
    top: int
    left: int
    height: int
    width: int
    mirrored: bool = (
        False  # PIL's ways: the image is mirrored, then scaled; OpenCV's: what was cut is mirrored
    )


def crop_image(image: np.ndarray, window: Crop, resize: str) -> np.ndarray:
    """The window of the image as it would be after scaling all of it.

    Args:
        image: (H, W, C), uint8, uint16, int16 or float32.
        window: what to cut.
        resize: ``pil_bilinear`` or ``pil_bicubic``: only the source under the window is scaled;
            ``opencv_linear``: all of it is, since OpenCV cannot start between two pixels.
    """
    if resize == "opencv_linear":
        if window.scaled != image.shape[:2]:
            image = restore_band_axis(cv2.resize(image, window.scaled[::-1], interpolation=cv2.INTER_LINEAR))
        part = image[window.top : window.top + window.height, window.left : window.left + window.width]
        return restore_band_axis(cv2.flip(part, 1)) if window.mirrored else np.ascontiguousarray(part)
    way, reach = FILTERS[resize]
    rows, top, bottom = _source_span(window.top, window.height, image.shape[0], window.scaled[0], reach)
    columns, left, right = _source_span(window.left, window.width, image.shape[1], window.scaled[1], reach)
    part = _select_columns(image[rows], columns, mirrored=window.mirrored)
    size, box = (window.width, window.height), (left, top, right, bottom)
    if part.dtype == np.uint8 and part.shape[2] == 3:
        return resize_pillow(part, size, way, box)
    return np.dstack([_resize_band(part[..., band], size, way, box) for band in range(part.shape[2])])


def resize_pillow(
    image: np.ndarray,
    size: tuple[int, int],
    way: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize an image (H, W) or (H, W, 3), first its columns, then its rows.

    Pillow 13 chooses the order by its cost, and rounds to whole levels in between: a crop would then differ
    from the whole image by up to 17 levels. Earlier versions, which the published recipes were trained with,
    have this order.

    Args:
        image: uint8, or float32 of one band.
        size: width and height of the result.
        way: filter.
        box: left, top, right and bottom of the part that is resized; None: all of it.
    """
    left, top, right, bottom = box or (0, 0, image.shape[1], image.shape[0])
    pillow = Image.fromarray(image)
    wide = pillow.resize((size[0], image.shape[0]), way, (left, 0, right, image.shape[0]))
    return np.array(wide.resize(size, way, (0, top, size[0], bottom)))


def _resize_band(
    band: np.ndarray, size: tuple[int, int], way: Image.Resampling, box: tuple[float, float, float, float]
) -> np.ndarray:
    """One band; PIL resizes bytes and floats, so other integers pass through floats, which hold them."""
    if band.dtype in (np.uint8, np.float32):
        return resize_pillow(np.ascontiguousarray(band), size, way, box)
    found = np.rint(resize_pillow(band.astype(np.float32), size, way, box))
    limits = np.iinfo(band.dtype)  # bicubic overshoots
    return found.clip(limits.min, limits.max).astype(band.dtype)


def restore_band_axis(image: np.ndarray) -> np.ndarray:
    """(H, W, C); OpenCV drops the last axis of images of one band."""
    return image if image.ndim == 3 else image[..., None]


def crop_label(label: np.ndarray, window: Crop, resize: str) -> np.ndarray:
    """The window of the label as it would be after scaling all of it to the nearest neighbor.

    Args:
        label: (H, W) class ids.
        window: what to cut.
        resize: of the image; the label follows the same toolkit.
    """
    indices = _nearest_by_corner if resize == "opencv_linear" else _nearest_by_center
    rows = indices(window.top, window.height, label.shape[0], window.scaled[0])
    columns = indices(window.left, window.width, label.shape[1], window.scaled[1])
    if window.mirrored:
        columns = columns[::-1] if resize == "opencv_linear" else label.shape[1] - 1 - columns
    # indexing the other axis would gather byte by byte
    return cv2.transpose(cv2.transpose(label[rows])[columns])


def crop_rotated(
    array: np.ndarray, window: Crop, angle: float, *, resize: str, fill: Sequence[float]
) -> np.ndarray:
    """The window, turned about its center; labels to the nearest neighbor, images linearly.

    Args:
        array: (H, W), a label, or (H, W, C), an image.
        window: what to cut.
        angle: in degrees.
        resize: of the image.
        fill: what comes from outside the image, a value for each band.
    """
    image = array.ndim == 3
    if image and resize in FILTERS and window.scaled[0] < array.shape[0]:  # warpAffine would skip pixels
        array = crop_image(array, Crop(window.scaled, 0, 0, *window.scaled), resize)
    zoom = np.array([window.scaled[1] / array.shape[1], window.scaled[0] / array.shape[0]])
    center = np.array([window.width - 1, window.height - 1]) / 2
    turned = cv2.getRotationMatrix2D(tuple(center), angle, 1.0)  # acts on pixels of the window
    scale = np.array(
        [
            [zoom[0], 0, (zoom[0] - 1) / 2 - window.left],
            [0, zoom[1], (zoom[1] - 1) / 2 - window.top],
            [0, 0, 1],
        ]
    )
    how: dict[str, Any] = {
        "flags": cv2.INTER_LINEAR if image else cv2.INTER_NEAREST,
        "borderMode": cv2.BORDER_CONSTANT,
    }
    size, planes = (window.width, window.height), [array]
    if image and array.shape[2] != 3:  # OpenCV warps at most four bands
        planes = [np.ascontiguousarray(array[..., band]) for band in range(array.shape[2])]
    fills = [fill] if len(planes) == 1 else [(value,) for value in fill]
    parts = [
        cv2.warpAffine(plane, turned @ scale, size, borderValue=tuple(value), **how)
        for plane, value in zip(planes, fills, strict=True)
    ]
    part = parts[0] if len(parts) == 1 else np.dstack(parts)
    part = cv2.flip(part, 1) if window.mirrored else part
    return restore_band_axis(part) if image else part


def _source_span(start: int, length: int, full: int, scaled: int, reach: float) -> tuple[slice, float, float]:
    """The source pixels that a part of the scaled side depends on, and where the part lies among them."""
    first, last = start * full / scaled, (start + length) * full / scaled
    margin = reach * max(1.0, full / scaled) + 1
    begin, end = max(0, math.floor(first - margin)), min(full, math.ceil(last + margin))
    return slice(begin, end), first - begin, min(last, full) - begin


def _select_columns(rows: np.ndarray, columns: slice, *, mirrored: bool) -> np.ndarray:
    """Columns of an image, counted from the right and turned round when it is mirrored."""
    if not mirrored:
        return np.ascontiguousarray(rows[:, columns])
    width = rows.shape[1]
    return restore_band_axis(cv2.flip(rows[:, width - columns.stop : width - columns.start], 1))


def _nearest_by_center(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """The source pixel under the center of each; summed up step by step as PIL does, rounding included."""
    steps = np.full(start + length, full / scaled)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps)[start:].astype(np.intp), full - 1)


def _nearest_by_corner(start: int, length: int, full: int, scaled: int) -> np.ndarray:
    """The source pixel under the upper left corner of each, with the factor as OpenCV rounds it."""
    factor = 1.0 / (scaled / full)
    return np.minimum((np.arange(start, start + length) * factor).astype(np.intp), full - 1)
