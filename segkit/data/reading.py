"""Image and mask files to arrays: each is read as it is stored, or refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from segkit.data.headers import Header, header_of
from segkit.data.labels import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2")
MASKS = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp")

Coding = Literal[
    "ids", "any"
]  # "any": what the file holds decides, one channel for ids and three for colours

FETCH = "fetch it again, or delete it with its partner"
TO_RGB = "save it as an 8-bit RGB or grey PNG"
LARGE = 1 << 26  # pixels from which a file must have bytes to show for its size
LARGEST = 1 << 30  # pixels, where OpenCV ends
RATIO = {"image": 200, "mask": 1100}  # pixels a byte; photographs come to 50, DEFLATE ends at 1032


def read_image(file: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey becomes three equal bands, a palette its colours, an alpha band that hides nothing is left out.

    Raises:
        DataError: the file is missing or damaged, or holds what three bands of 8 bits cannot.
    """
    data = _bytes(file)
    header = _header(data, file, "image")
    if header.depth > 8:
        raise DataError(
            f"{header.depth}-bit",
            file,
            f"holds {header.depth}-bit values, of which 8 bits would be cut off",
            "scale all images by one range and save them as 8-bit PNG",
        )
    if header.bands not in (1, 3) and not header.alpha:
        raise DataError(
            "too many bands",
            file,
            f"holds {header.bands} bands, of which three would be read",
            "choose three bands and save them as an RGB PNG",
        )
    image = _decode(data, cv2.IMREAD_COLOR, file)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_mask(file: Path, coding: Coding) -> np.ndarray:
    """A mask as stored: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 RGB colours if ``coding`` allows.

    A palette is read as its indices, as label tools mean it, if ``coding`` allows.

    Raises:
        DataError: the file is missing, damaged, lossy, or holds neither ids nor colours.
    """
    data = _bytes(file)
    header = _header(data, file, "mask")
    if header.lossy:
        raise DataError(
            "lossy mask",
            file,
            f"is compressed with loss ({header.format}), which changes ids at every edge",
            "save the mask again from its source as PNG",
        )
    if header.inverted:
        raise _wrong_mode(file, "white as zero", "white as zero, so that ids would be turned over,")
    if header.palette or header.depth < 8:
        return _indices(data, header, file, coding)
    if header.depth > 16 or (header.depth > 8 and (header.bands > 1 or coding == "ids")):
        raise _wrong_mode(file, f"{header.depth}-bit", f"{header.depth}-bit values")
    if (header.bands in (2, 4) and not header.alpha) or header.bands > 4:
        raise _wrong_mode(file, "too many bands", f"{header.bands} bands")
    mask = _decode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH, file)
    if mask.ndim == 3 and header.bands <= 2:  # OpenCV knows grey with alpha, and grey WebP, as colours
        mask = np.ascontiguousarray(mask[..., 0])
    if mask.ndim == 2:
        return mask
    if coding == "ids":
        raise _wrong_mode(file, "RGB mask", "three colour channels")
    return cv2.cvtColor(mask, cv2.COLOR_BGR2RGB, dst=mask)


def _bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError("unreadable", file, error.strerror or str(error), "is data.root complete?") from error
    if not data:
        raise DataError("zero bytes", file, "the file is empty", FETCH)
    return data


def _header(data: bytes, file: Path, use: str) -> Header:
    """What the file says of itself, if that can be read as it is stored."""
    header = header_of(data)
    if header is None:
        raise _broken(file)
    pixels = header.width * header.height
    if pixels > LARGEST or pixels > max(LARGE, RATIO[use] * len(data)):
        raise DataError(
            "implausible size",
            file,
            f"declares {header.width}x{header.height} pixels in {len(data)} bytes",
            "fetch it again if it is damaged, or cut it into parts",
        )
    if header.odd:
        raise DataError(
            header.odd.lstrip("0123456789 "),
            file,
            f"holds {header.odd}, which would not be read as stored",
            f"{TO_RGB}, one image a file" if use == "image" else "save it as a grey 8-bit PNG of ids",
        )
    if header.alpha and _transparent(data, file):
        raise DataError(
            "transparent",
            file,
            "has transparent pixels, whose colours mean nothing",
            f"lay it on the background that is meant and {TO_RGB}",
        )
    return header


def _transparent(data: bytes, file: Path) -> bool:
    """Whether the alpha band of a file hides anything."""
    from PIL import Image  # comes with torchvision; knows transparency in all its forms

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _broken(file) from error


def _decode(data: bytes, flags: int, file: Path) -> np.ndarray:
    """Decoded from memory, because ``cv2.imread`` fails on names that are not ASCII on some systems."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # some decoders raise where others give nothing
        image = None
    if image is None:
        raise _broken(file)
    return image


def _indices(data: bytes, header: Header, file: Path, coding: Coding) -> np.ndarray:
    """What a palette file, or one of fewer than 8 bits, stores; OpenCV knows only the colours behind it."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, values = image.mode, np.array(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("unreadable or truncated", file, str(error), FETCH) from error
    if mode == "P":
        if coding == "ids":
            raise _wrong_mode(file, "palette", f"a palette {header.format}")
        return values
    if mode == "1" and header.format != "PNM":  # where 1 is black
        return values.astype(np.uint8)
    if mode == "L" and header.format == "BMP":
        return values
    if mode == "L" and header.format == "PNG":  # 2 or 4 bits, which Pillow spreads over 0..255
        return values // (255 // ((1 << header.depth) - 1))
    raise _wrong_mode(file, f"{header.depth}-bit", f"{header.depth}-bit values")


def _broken(file: Path) -> DataError:
    return DataError("unreadable or truncated", file, "not an image, or only part of one", FETCH)


def _wrong_mode(file: Path, kind: str, holds: str) -> DataError:
    return DataError(
        kind, file, f"holds {holds}, not one byte of label id per pixel", "save it as a grey 8-bit PNG of ids"
    )
