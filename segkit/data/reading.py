"""Read image and mask files exactly as stored, or refuse them with the fix.

Common decoders silently cut 16 bits to 8, drop bands, or read the first of several pages. Here the header
is checked first, and whatever would be changed is refused with the setting that reads it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from segkit.data.image_formats import Header, decode, expand_values, parse_header
from segkit.data.label_map import DataError
from segkit.types import PHOTOGRAPHS, Bands

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".gif")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")

BAND_KEYS = ("bands", "range", "display", "fill")  # of data

Coding = Literal["ids", "any"]  # "any": ids if the file has one channel, colors if it has three
Use = Literal["image", "mask"]

REPLACE = "replace it with an intact copy"
TO_RGB = "save it as an 8-bit RGB or gray PNG"
TO_IDS = "save it as a gray 8-bit PNG of ids"
ONE_FILE_EACH = f"{TO_RGB}, one image per file"
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
    _check_bands(header, file, bands)
    image = expand_values(_decode(data, header, file), header)
    if bands.chosen is None:
        image = _select_rgb(image, header, file)
    elif max(bands.chosen) > image.shape[2]:
        count = image.shape[2]
        text = f"has {count} band{'s' * (count > 1)}, but data.bands includes {max(bands.chosen)}"
        raise DataError("too few bands", file, text, f"choose from 1 to {count}")
    else:
        image = image[..., [number - 1 for number in bands.chosen]]
    return _convert_type(np.ascontiguousarray(image), file, bands)


def _select_rgb(image: np.ndarray, header: Header, file: Path) -> np.ndarray:
    """Return (H, W, 3); gray is repeated, opaque alpha dropped, transparency refused."""
    if header.hidden or (header.alpha and _has_transparency(image, max(8, header.depth))):
        if header.alpha:
            colors = header.bands - (header.key is None)
            if header.palette is not None:
                colors = 3
            without, with_alpha = _band_numbers(colors), _band_numbers(colors + 1)
            remedy = f"data.bands=[{without}] leaves alpha out and [{with_alpha}] reads it as a band"
        else:  # the internal mask of a GeoTIFF is no band
            remedy = f"data.bands=[{_band_numbers(header.bands)}] reads the hidden pixels too"
        remedy = f"{remedy}; or put it on a background and {TO_RGB}"
        raise DataError("transparent", file, "has transparent pixels, whose colors are undefined", remedy)
    if image.shape[2] >= 3:
        return image[..., :3]
    return cv2.merge([image[..., 0]] * 3)


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
    _check_mask(header, file, coding, is_colored=is_colored)
    mask = _decode(data, header, file)
    if header.palette is not None and header.format == "GIF":  # programs that write GIF reorder palettes
        mask = expand_values(mask, header)
        is_colored = bool((mask[..., :3] != mask[..., :1]).any())
    if header.hidden or (header.alpha and mask.shape[2] > 1 and _has_transparency(mask, header.depth)):
        raise DataError("transparent", file, "has transparent pixels, whose ids are undefined", TO_IDS)
    if header.kind or header.depth > 16:
        return _convert_to_ids(mask[..., 0], file)
    if is_colored:
        return np.ascontiguousarray(mask[..., :3])
    return np.ascontiguousarray(mask[..., 0])


def _check_mask(header: Header, file: Path, coding: Coding, *, is_colored: bool) -> None:
    """Refuse masks that do not hold one id or color for each pixel."""
    needs_8_bits = header.bands > 1 or coding == "ids"
    faults = (
        (header.pages > 1, f"{header.pages} pages"),
        (header.colors, header.colors),
        (header.kind and needs_8_bits, f"{header.kind} values"),
        (header.inverted, "white as zero, which would invert the ids"),
        (header.depth > 8 and needs_8_bits, f"{header.depth}-bit values"),
        (header.format == "PPM" and header.depth == 1, "1-bit values"),
        (header.bands > 4 or (header.bands in (2, 4) and not header.alpha), f"{header.bands} bands"),
        (header.palette is not None and coding == "ids", f"a palette {header.format}"),
        (is_colored and coding == "ids", "three color channels"),
    )
    for is_wrong, text in faults:
        if is_wrong:
            kind = re.sub(r"^\d+ ", "", text).removesuffix(" values")
            raise DataError(kind, file, f"holds {text}, not one id per pixel", TO_IDS)
    if header.lossy:
        text = f"is compressed with loss ({header.format}), which changes ids at every edge"
        raise DataError("lossy mask", file, text, "export the mask again from its source as PNG")


def _convert_to_ids(mask: np.ndarray, file: Path) -> np.ndarray:
    """Return whole numbers of any type as int64; refuse others."""
    values = mask.astype(np.float64)
    if not (values == np.rint(values)).all() or np.isinf(values).any():
        raise DataError("fractions", file, "holds fractions, NaN or infinity, not one id per pixel", TO_IDS)
    return values.clip(-(1 << 53), 1 << 53).astype(np.int64)


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
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"data.bands={_format_value(chosen)}: must list at least one band, and each once.")
    pairs: tuple[tuple[float, float], ...] = ()
    if isinstance(limits, tuple):
        pairs = limits if isinstance(limits[0], tuple) else (limits,)
    value = f"data.range={_format_value(limits)}"
    if any(low >= high for low, high in pairs):
        raise ValueError(f"{value}: black must be less than white. An example is [0,4095].")
    numbers = chosen or (1, 2, 3)
    if len(pairs) not in (0, 1, len(numbers)):
        raise ValueError(
            f"{value}: {len(pairs)} ranges for {len(numbers)} bands. Give one, or one for each band."
        )
    if display is not None and (len(display) not in (1, 3) or not set(display) <= set(numbers)):
        raise ValueError(
            f"data.display={_format_value(display)}: must be one band (gray) or three (red, green, blue) of "
            f"data.bands={_format_value(numbers)}."
        )
    return Bands(chosen, limits, display, fill)


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_to_tuples, value))
    return value


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_format_value, value))}]"
    return f"{value}"


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
    try:
        header = parse_header(data)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged files
        raise _damage_error(file, error) from error
    width, height = header.width, header.height
    plausible = min(MAX_PIXELS, max(MIN_CHECKED_PIXELS, MAX_PIXELS_PER_BYTE[use] * len(data)))
    if max(width, height) > MAX_SIDE or width * height > plausible:
        text = f"declares {width}x{height} pixels in {len(data)} bytes"
        raise DataError("implausible size", file, text, f"cut it into parts; if it is damaged, {REPLACE}")
    if header.unsupported:
        text = f"holds {header.unsupported}, which would not be read as stored"
        remedy = {"image": ONE_FILE_EACH, "mask": TO_IDS}[use]
        raise DataError(header.unsupported.lstrip("0123456789 "), file, text, remedy)
    return header


def _decode(data: bytes, header: Header, file: Path) -> np.ndarray:
    try:
        return decode(data, header)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged files
        raise _damage_error(file, error, is_tiff=header.format == "TIFF") from error


def _damage_error(file: Path, reason: Exception, *, is_tiff: bool = False) -> DataError:
    first_line = (str(reason) or type(reason).__name__).splitlines()[0][:200]
    remedy = REPLACE
    if is_tiff and not (importlib.util.find_spec("imagecodecs") and importlib.util.find_spec("rasterio")):
        remedy = f"pip install 'segkit[bands,geo]' reads more kinds of TIFF; if it is damaged, {REPLACE}"
    text = f"is damaged, cut short or not an image ({first_line})"
    return DataError("unreadable or truncated", file, text, remedy)


def _check_bands(header: Header, file: Path, bands: Bands) -> None:
    """Refuse images that ``bands`` does not read as stored, with the setting that reads them."""
    listed = f"data.bands=[{_band_numbers(header.bands)}]"
    if bands.range is None and (header.kind or header.depth > 8):
        kind, limits = f"{header.depth}-bit", f"[0,{header.max_value}]"
        if header.kind:
            kind, limits = header.kind, "[LOWEST,HIGHEST]"
        text = f"holds {kind} values, which would be truncated to 8 bits"
        remedy = f"data.range={limits} reads them all; data.range=percentile finds the range in the images"
        raise DataError(kind, file, text, remedy)
    if header.colors and (bands.chosen is None or header.format != "TIFF"):
        remedy = ONE_FILE_EACH
        if header.format == "TIFF":
            remedy = f"{listed} reads the bands as stored, or {TO_RGB}"
        text = f"holds {header.colors}, which would not be read as stored"
        raise DataError(header.colors, file, text, remedy)
    if bands.chosen is not None:
        return
    if header.pages > 1:
        remedy = f"data.bands=[{_band_numbers(header.pages * header.bands)}] reads all; or save one per file"
        raise DataError("pages", file, f"holds {header.pages} pages, of which one would be read", remedy)
    if header.unnamed and header.bands == 3:
        text = "holds three bands that are not declared as red, green and blue"
        raise DataError("no colors", file, text, "choose their order with data.bands=[1,2,3]")
    if header.bands not in (1, 3) and not header.alpha:
        count = "one" if header.bands == 2 else "three"
        text = f"holds {header.bands} bands, of which {count} would be read"
        raise DataError("too many bands", file, text, f"choose with {listed}")


def _band_numbers(count: int) -> str:
    return ",".join(map(str, range(1, count + 1)))


def _has_transparency(image: np.ndarray, depth: int) -> bool:
    """Return whether the last band, alpha, is anywhere less than its maximum."""
    return int(image[..., -1].min()) < (1 << depth) - 1


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
