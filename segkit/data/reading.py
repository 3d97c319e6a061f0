"""Read image and mask files exactly as stored, or refuse them with the fix.

Common decoders silently cut 16 bits to 8, drop bands, or read the first of several pages. Here the header
is checked first, and whatever would be changed is refused with the setting that reads it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from segkit.data.image_formats import Header, decode, expand_values, parse_header
from segkit.data.label_map import DataError
from segkit.runtime.text import first_line, format_count
from segkit.types import PHOTOGRAPHS, Bands

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".gif")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")

BAND_KEYS = ("bands", "range", "display", "fill")  # of data

Coding = Literal["ids", "any"]  # "any": ids if the file has one channel, colors if it has three
Use = Literal["image", "mask"]

REPLACE = "replace it with an intact copy"
TO_RGB = "save each image as an 8-bit RGB or gray PNG"
TO_IDS = "save it as a gray 8-bit PNG of ids"
MIN_CHECKED_PIXELS = 1 << 26  # larger images must have a plausible number of bytes
MAX_PIXELS, MAX_SIDE = 1 << 30, 1 << 20  # OpenCV's limits
MAX_PIXELS_PER_BYTE = {"image": 200, "mask": 1100}  # photographs reach 50, DEFLATE 1032


def read_image(file: Path, bands: Bands = PHOTOGRAPHS) -> np.ndarray:
    """Return the chosen bands (H, W, C) of an image, in its EXIF orientation.

    Without ``bands.chosen`` C is 3: gray becomes three equal bands, a palette its colors, and an alpha band
    that hides nothing is dropped. Values stay as stored: uint8, uint16 or int16; others become float32.

    Raises:
        DataError: the file is missing or damaged, or ``bands`` does not read all that it holds.
    """
    data = _read_bytes(file)
    header = _read_header(data, file, "image")
    _check_image(header, file, bands)
    with _report_damage(file, needs_extras=header.format in ("TIFF", "JPEG 2000")):
        image = expand_values(decode(data, header), header)
    count = image.shape[2]
    if bands.chosen is None:
        if _has_transparency(image, header, max(8, header.depth)):
            remedy = f"data.bands=[{_list_bands(count)}] reads all bands, the hidden pixels too; or {TO_RGB}"
            raise DataError("transparent", file, "has transparent pixels, whose colors are undefined", remedy)
        image = image[..., : 3 if count >= 3 else 1]
    elif max(bands.chosen) > count:
        text = f"has {format_count(count, 'band')}, but data.bands includes {max(bands.chosen)}"
        raise DataError("too few bands", file, text, f"choose from 1 to {count}")
    else:
        image = image[..., [number - 1 for number in bands.chosen]]
    image = _convert_type(np.ascontiguousarray(image), file, bands)
    if bands.chosen is None and count < 3:
        return cv2.merge([image[..., 0]] * 3)  # ten times faster than numpy
    return image


def _check_image(header: Header, file: Path, bands: Bands) -> None:
    """Refuse images that ``bands`` does not read as stored, with the setting that reads them."""
    kind, limits = f"{header.depth}-bit", f"[0,{header.max_value}]"
    if header.kind:
        kind, limits = header.kind, "[LOWEST,HIGHEST]"
    to_range = f"data.range={limits} reads them all; data.range=percentile finds the range in the images"
    to_bands = f"data.bands=[{_list_bands(header.pages * header.bands)}] reads all as stored; or {TO_RGB}"
    is_rgb, is_tiff = bands.chosen is None, header.format == "TIFF"
    faults = (
        (bands.range is None and (header.kind or header.depth > 8), f"{kind} values", to_range),
        (header.colors and not is_tiff, header.colors, TO_RGB),
        (header.colors and is_rgb, header.colors, to_bands),
        (is_rgb and header.pages > 1, f"{header.pages} pages", to_bands),
        (is_rgb and header.unnamed and header.bands == 3, "bands not declared as red, green, blue", to_bands),
        (is_rgb and header.bands not in (1, 3) and not header.alpha, f"{header.bands} bands", to_bands),
    )
    _raise_first(faults, file)


def read_mask(file: Path, coding: Coding) -> np.ndarray:
    """Return a mask as stored: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 colors if ``coding`` is any.

    A palette is read as its indices, as labeling tools write them, if ``coding`` is any; that of a GIF as its
    gray levels or colors. Signed, floating-point and 32-bit or 64-bit ids become int64.

    Raises:
        DataError: the file is missing, damaged or lossy, or holds neither ids nor colors.
    """
    data = _read_bytes(file)
    header = _read_header(data, file, "mask")
    is_colored = header.bands - (header.alpha and header.bands in (2, 4)) == 3
    needs_8_bits = header.bands > 1 or coding == "ids"
    faults = (
        (header.pages > 1, f"{header.pages} pages", TO_IDS),
        (header.colors, header.colors, TO_IDS),
        (header.kind and needs_8_bits, f"{header.kind} values", TO_IDS),
        (header.inverted, "white as zero, which would invert the ids", TO_IDS),
        (header.depth > 8 and needs_8_bits, f"{header.depth}-bit values", TO_IDS),
        (header.format == "PPM" and header.depth == 1, "1-bit values", TO_IDS),
        (header.bands > 4 or (header.bands in (2, 4) and not header.alpha), f"{header.bands} bands", TO_IDS),
        (header.palette is not None and coding == "ids", f"a palette {header.format}", TO_IDS),
        (is_colored and coding == "ids", "three color channels", TO_IDS),
        (header.lossy, f"ids changed by lossy compression ({header.format})", "export it again as PNG"),
    )
    _raise_first(faults, file)
    with _report_damage(file, needs_extras=header.format == "TIFF"):
        mask = decode(data, header)
    if header.palette is not None and header.format == "GIF":  # programs that write GIF reorder palettes
        mask = expand_values(mask, header)
        is_colored = bool((mask[..., :3] != mask[..., :1]).any())
    if _has_transparency(mask, header, header.depth):
        raise DataError("transparent", file, "has transparent pixels, whose ids are undefined", TO_IDS)
    if is_colored:
        return np.ascontiguousarray(mask[..., :3])
    mask = np.ascontiguousarray(mask[..., 0])
    if header.kind or header.depth > 16:
        values = mask.astype(np.float64)
        if not (values == np.rint(values)).all() or np.isinf(values).any():
            raise DataError("fractions", file, "holds fractions, NaN or infinity, not ids", TO_IDS)
        return values.clip(-(1 << 53), 1 << 53).astype(np.int64)
    return mask


def _raise_first(faults: Iterable[tuple[object, str, str]], file: Path) -> None:
    """Raise the first fault (is it there, what the file holds, remedy), grouped by its words."""
    for is_wrong, text, remedy in faults:
        if is_wrong:
            kind = re.sub(r"^\d+ ", "", text).removesuffix(" values")
            raise DataError(kind, file, f"holds {text}, which would not be read as stored", remedy)


def read_size(file: Path) -> tuple[int, int]:
    """Return the height and width of an image in its EXIF orientation, from its header."""
    header = _read_header(_read_bytes(file), file, "image")
    if header.orientation in (5, 6, 7, 8):
        return header.width, header.height
    return header.height, header.width


def parse_bands(data: Mapping[str, Any]) -> Bands:
    """Return the settings ``data.bands``, ``range``, ``display`` and ``fill`` as ``Bands``.

    Raises:
        ValueError: the settings contradict one another.
    """
    chosen, limits, display, fill = (_to_tuples(data.get(key)) for key in BAND_KEYS)
    numbers = chosen or (1, 2, 3)
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"data.bands={json.dumps(chosen)}: must list at least one band, and each once.")
    pairs: tuple[tuple[float, float], ...] = ()
    if isinstance(limits, tuple):
        pairs = limits if isinstance(limits[0], tuple) else (limits,)
    if len(pairs) not in (0, 1, len(numbers)) or any(low >= high for low, high in pairs):
        raise ValueError(
            f"data.range={json.dumps(limits)}: must be [black,white], such as [0,4095], or one such pair for "
            f"each of {len(numbers)} bands, and black must be less than white."
        )
    if display is not None and (len(display) not in (1, 3) or not set(display) <= set(numbers)):
        raise ValueError(
            f"data.display={json.dumps(display)}: must be one band (gray) or three (red, green, blue) of "
            f"data.bands={json.dumps(numbers)}."
        )
    return Bands(chosen, limits, display, fill)


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_to_tuples, value))
    return value


def _read_bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError("unreadable", file, error.strerror or str(error), "is data.root complete?") from error
    if not data:
        raise DataError("zero bytes", file, "the file is empty", REPLACE)
    return data


def _read_header(data: bytes, file: Path, use: Use) -> Header:
    """Return the header of a file; refuse damage, unsupported content, and sizes it cannot hold."""
    with _report_damage(file):
        header = parse_header(data)
    width, height = header.width, header.height
    plausible = min(MAX_PIXELS, max(MIN_CHECKED_PIXELS, MAX_PIXELS_PER_BYTE[use] * len(data)))
    if max(width, height) > MAX_SIDE or width * height > plausible:
        text = f"declares {width}x{height} pixels in {len(data)} bytes"
        raise DataError("implausible size", file, text, f"cut it into parts; if it is damaged, {REPLACE}")
    _raise_first([(header.unsupported, header.unsupported, {"image": TO_RGB, "mask": TO_IDS}[use])], file)
    return header


@contextlib.contextmanager
def _report_damage(file: Path, *, needs_extras: bool = False) -> Iterator[None]:
    """Raise a ``DataError`` instead of what decoders raise on damaged files, which is nearly everything."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        remedy = REPLACE
        if needs_extras and not all(map(importlib.util.find_spec, ("imagecodecs", "rasterio"))):
            remedy = f"pip install 'segkit[bands,geo]' reads more such files; if it is damaged, {REPLACE}"
        text = f"is damaged, cut short or not an image ({first_line(error)[:200]})"
        raise DataError("unreadable or truncated", file, text, remedy) from error


def _list_bands(count: int) -> str:
    return ",".join(map(str, range(1, count + 1)))


def _has_transparency(image: np.ndarray, header: Header, depth: int) -> bool:
    """Return whether pixels are hidden; alpha is the last band, and opaque at the maximum of this depth."""
    has_band = header.alpha and image.shape[2] > 1  # not if it is in a palette
    return header.hidden or (has_band and int(image[..., -1].min()) < (1 << depth) - 1)


def _convert_type(image: np.ndarray, file: Path, bands: Bands) -> np.ndarray:
    """Return uint8, uint16, int16 or float32; networks compute in float32, so doubles are rounded to it."""
    if image.dtype == np.int8:
        return image.astype(np.int16)
    if image.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.int16):
        return image.astype(image.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore"):
        image = image.astype(np.float32)
    is_invalid = ~np.isfinite(image)
    if is_invalid.any():
        if bands.fill is None:
            text = f"holds NaN or infinity in {int(is_invalid.sum())} places"
            raise DataError("not finite", file, text, "data.fill=0 (or another value) replaces them")
        image[is_invalid] = bands.fill
    return image
