"""Image and mask files to arrays: each is read as it is stored, or refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from segkit.data import decoding
from segkit.data.headers import Header, header_of
from segkit.data.labels import DataError
from segkit.types import PHOTOGRAPHS, Bands

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2")
MASKS = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp")

Coding = Literal[
    "ids", "any"
]  # "any": what the file holds decides, one channel for ids and three for colours

FETCH = "fetch it again"
TO_RGB = "save it as an 8-bit RGB or grey PNG"
TO_IDS = "save it as a grey 8-bit PNG of ids"
LARGE = 1 << 26  # pixels from which a file must have bytes to show for its size
LARGEST = 1 << 30  # pixels, where OpenCV ends
RATIO = {"image": 200, "mask": 1100}  # pixels a byte; photographs come to 50, DEFLATE ends at 1032


def read_image(file: Path, bands: Bands = PHOTOGRAPHS) -> np.ndarray:
    """(H, W, C) of the bands that are meant, turned as the EXIF orientation says.

    Without ``bands.chosen`` C is 3: grey becomes three equal bands, a palette its colours, an alpha band that
    hides nothing is left out. Values stay as stored: uint8, uint16 or int16; others become float32.

    Raises:
        DataError: the file is missing or damaged, or holds what these bands cannot; the message names the
            setting that reads it.
    """
    data = _bytes(file)
    header = _header(data, file, "image")
    _refuse_what_is_not_meant(header, data, file, bands)
    if bands.photographs:
        image = _decode(data, cv2.IMREAD_COLOR, file)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    try:
        image = decoding.as_stored(data, header)
    except decoding.NoReaderError as error:
        raise DataError("no reader", file, "is read by nothing that is installed", str(error)) from error
    if image is None:
        raise _broken(file)
    if bands.chosen is None:
        colours = image[..., : 1 if image.shape[2] < 3 else 3]
        image = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    else:
        if (least := max(bands.chosen)) > (count := image.shape[2]):
            text = f"holds {count} band{'s' * (count > 1)}, data.bands asks for number {least}"
            raise DataError("too few bands", file, text, f"numbers go from 1 to {count} (data.bands)")
        image = image[..., [number - 1 for number in bands.chosen]]
    return _as_travels(np.ascontiguousarray(image), file, bands)


def _refuse_what_is_not_meant(header: Header, data: bytes, file: Path, bands: Bands) -> None:
    """What these bands would not read as it is stored, each with the setting that does."""
    kind = f"{header.values or f'{header.depth}-bit'} values"
    if bands.range is None and (header.values or header.depth > 8):
        least = f"[0,{(1 << header.depth) - 1}]" if not header.values else "[LOWEST,HIGHEST]"
        raise DataError(
            kind.removesuffix(" values"),
            file,
            f"holds {kind}, which 8 bits would cut",
            f"data.range={least} reads them whole; data.range=percentile finds the range in the images",
        )
    if header.colours and (bands.chosen is None or header.format != "TIFF"):
        reads = f"data.bands=[{_numbers(header.bands)}] reads the bands as stored, or {TO_RGB}"
        remedy = reads if header.format == "TIFF" else f"{TO_RGB}, one image a file"
        raise DataError(
            header.colours, file, f"holds {header.colours}, which would not be read as stored", remedy
        )
    if bands.chosen is not None:
        return
    if header.pages > 1:
        raise DataError(
            "pages",
            file,
            f"holds {header.pages} pages, of which one would be read",
            f"data.bands=[{_numbers(header.pages * header.bands)}] takes all; or save one image a file",
        )
    if header.unnamed and header.bands == 3:
        text = "holds three bands that are not said to be red, green and blue"
        raise DataError("no colours", file, text, "choose their order with data.bands=[1,2,3]")
    if header.bands not in (1, 3) and not header.alpha:
        raise DataError(
            "too many bands",
            file,
            f"holds {header.bands} bands, of which {'one' if header.bands == 2 else 'three'} would be read",
            f"choose with data.bands=[{_numbers(header.bands)}]",
        )
    if header.alpha and _transparent(data, file):
        colours = 3 if header.palette or header.bands > 2 else 1
        raise DataError(
            "transparent",
            file,
            "has transparent pixels, whose colours mean nothing",
            f"data.bands=[{_numbers(colours)}] leaves alpha out and [{_numbers(colours + 1)}] takes it as a "
            f"band; or lay it on the background that is meant and {TO_RGB}",
        )


def _numbers(count: int) -> str:
    return ",".join(map(str, range(1, count + 1)))


def _as_travels(image: np.ndarray, file: Path, bands: Bands) -> np.ndarray:
    """As uint8, uint16, int16 or float32; a network computes in float32, so doubles are rounded to it."""
    if image.dtype == np.bool_:
        return image * np.uint8(255)
    if image.dtype == np.int8:
        return image.astype(np.int16)
    if image.dtype.isnative and image.dtype in (np.uint8, np.uint16, np.int16):
        return image
    if image.dtype.newbyteorder("=") in (np.uint16, np.int16):
        return image.astype(image.dtype.newbyteorder("="))
    with np.errstate(over="ignore"):
        image = image.astype(np.float32)
    holes = ~np.isfinite(image)
    if holes.any():
        if bands.fill is None:
            raise DataError(
                "not finite",
                file,
                f"holds NaN or infinity in {int(holes.sum())} places",
                "data.fill=0 (or another value) stands in for them",
            )
        image[holes] = bands.fill
    return image


def read_mask(file: Path, coding: Coding) -> np.ndarray:
    """A mask as stored: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 RGB colours if ``coding`` allows.

    A palette is read as its indices, as label tools mean it, if ``coding`` allows.

    Raises:
        DataError: the file is missing, damaged, lossy, or holds neither ids nor colours.
    """
    data = _bytes(file)
    header = _header(data, file, "mask")
    _refuse_what_is_no_mask(header, data, file)
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


def _refuse_what_is_no_mask(header: Header, data: bytes, file: Path) -> None:
    kind, holds = "", header.colours or (f"{header.values} values" if header.values else "")
    if header.pages > 1:
        kind, holds = "pages", f"{header.pages} pages"
    if holds:
        raise DataError(kind or holds, file, f"holds {holds}, which would not be read as stored", TO_IDS)
    if header.alpha and _transparent(data, file):
        raise DataError("transparent", file, "has transparent pixels, whose ids mean nothing", TO_IDS)
    if header.lossy:
        raise DataError(
            "lossy mask",
            file,
            f"is compressed with loss ({header.format}), which changes ids at every edge",
            "save the mask again from its source as PNG",
        )


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
            f"{TO_RGB}, one image a file" if use == "image" else TO_IDS,
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
    if (image := decoding.decoded(data, flags)) is None:
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
    return DataError(kind, file, f"holds {holds}, not one byte of label id per pixel", TO_IDS)
