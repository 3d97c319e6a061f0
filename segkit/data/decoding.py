"""Files to arrays, every band as it is stored: OpenCV for photographs, others for the rest of TIFF.

tifffile and rasterio are optional; what OpenCV reads exactly needs neither.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import Any

import cv2
import numpy as np

from segkit.data.headers import Header

EXTRA = "pip install 'segkit[bands]' (tifffile) or 'segkit[geo]' (rasterio) reads it"


class NoReaderError(Exception):
    """Nothing that is installed reads this file."""


def decoded(data: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV makes of the bytes of a file; from memory, as ``cv2.imread`` fails on some names."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # some decoders raise where others give nothing
        return None


def as_stored(data: bytes, header: Header) -> np.ndarray | None:
    """All bands of an image, alpha and pages included, turned as its orientation says.

    Args:
        data: the file.
        header: of it.

    Returns:
        (H, W, C) of the type that the file has, a palette as its colours; None if it is damaged.

    Raises:
        NoReaderError: it takes a reader that is not installed.
    """
    if header.format == "TIFF" and not _plain_tiff(header):
        found = _tiff(data, header)
        return None if found is None else turned(found, header.orientation)
    if header.format == "JPEG 2000" and header.bands not in (1, 3, 4):
        return _by_rasterio(data)
    if header.alpha or header.bands in (2, 4):  # only unchanged has all of them, and then nothing is turned
        found = decoded(data, cv2.IMREAD_UNCHANGED)
        if found is None:
            return None
        found = in_order(found)
        if found.shape[2] == 4 and header.bands <= 2 and not header.palette:  # grey and alpha
            found = found[..., [0, 3]]
        if found.shape[2] == 1:  # OpenCV leaves out the colour that a grey PNG calls transparent
            found = np.dstack([found, _alpha(data).astype(found.dtype) * (257 if header.depth > 8 else 1)])
        return turned(found, header.orientation or _orientation(data))
    found = decoded(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if found is None:
        return None
    found = in_order(found)
    return found[..., :1] if header.bands == 1 and not header.palette else found


def in_order(found: np.ndarray) -> np.ndarray:
    """OpenCV's bands as red, green, blue, alpha; (H, W) as one band."""
    if found.ndim == 2:
        return found[..., None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}[found.shape[2]]
    return np.ascontiguousarray(found[..., order])


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, ...) as one is to look at it; ``orientation`` is that of EXIF and TIFF, 1..8."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    down = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    across = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(image[down, across])


def _orientation(data: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1


def _alpha(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA").getchannel("A"))


def _plain_tiff(header: Header) -> bool:
    """Whether OpenCV reads it exactly: unsigned grey, palette or RGB of at most 16 bits."""
    usual = (
        not header.unnamed
        and not header.values
        and not header.colours
        and header.pages == 1
        and not header.inverted
    )
    return usual and header.bands in (1, 3) and (header.depth <= 8 or header.depth == 16)


def _tiff(data: bytes, header: Header) -> np.ndarray | None:
    if importlib.util.find_spec("tifffile"):
        found = _by_tifffile(data)
    elif header.pages == 1:
        found = _by_rasterio(data)
    else:
        raise NoReaderError(EXTRA.replace(" or 'segkit[geo]' (rasterio)", ""))
    if found is not None and header.inverted:  # 0 is white
        found = np.subtract((1 << header.depth) - 1, found, dtype=found.dtype)
    return found


def _by_tifffile(data: bytes) -> np.ndarray | None:
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages: list[Any] = list(file.pages)
            pages = [page for number, page in enumerate(pages) if not (number and page.is_reduced)]
            bands = []
            for page in pages:
                array = page.asarray()
                if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                    array = np.moveaxis(array, 0, -1)
                bands.append(array if array.ndim == 3 else array[..., None])
    except (ValueError, OSError, RuntimeError, IndexError, KeyError, TypeError) as error:
        if "imagecodecs" in str(error) and not importlib.util.find_spec("imagecodecs"):
            raise NoReaderError("pip install 'segkit[bands]' (imagecodecs) reads its compression") from error
        return None
    return np.concatenate(bands, axis=2)


def _by_rasterio(data: bytes) -> np.ndarray | None:
    if not importlib.util.find_spec("rasterio"):
        raise NoReaderError(EXTRA)
    import rasterio
    import rasterio.errors

    try:
        with warnings.catch_warnings(), rasterio.MemoryFile(data) as memory:
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with memory.open() as file:
                return np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    except rasterio.errors.RasterioError:
        return None
