"""Parse headers of image files, and decode their pixels exactly as stored.

OpenCV decodes photographs, Pillow decodes palettes and fewer than 8 bits, tifffile and rasterio decode the
TIFFs that OpenCV would change. Which decoder is exact follows from the header.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

# Plugins instead of Image.open, which refuses more than 179 million pixels
PLUGINS: tuple[tuple[bytes, Callable[[io.BytesIO], Image.Image]], ...] = (
    (rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),  # also MPO: the pages after the first are previews
    (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    (rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
    (rb"BM", BmpImagePlugin.BmpImageFile),
)
TIFF, JP2 = rb"II[*+]\0|MM\0[*+]", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"
TIFF_COLORS = {0: "", 1: "", 2: "", 3: "", 5: "CMYK colors", 6: ""}
TIFF_LOSSY = (6, 7, 33003, 33005, 34712, 50001, 50002, 52546)  # JPEG, JPEG 2000, WebP, JPEG XL
TIFF_KINDS = {1: "", 2: "signed", 3: "floating-point", 4: ""}
TRUNCATED = "the end of the image is missing"


class Header(NamedTuple):
    """Description of the stored pixels of a file."""

    format: str
    width: int
    height: int
    bands: int  # a palette is one band
    depth: int  # bits per band
    alpha: bool = False  # alpha is the last band, is in the palette, or follows from ``key``
    palette: np.ndarray | None = None  # (256, 3) or, with alpha, (256, 4) uint8
    key: Any = None  # value or color of transparent pixels
    kind: str = ""  # of the values, if they are not unsigned integers
    colors: str = ""  # color model, if it is not gray, palette or RGB
    unnamed: bool = False  # several gray bands
    inverted: bool = False  # 0 is white
    lossy: bool = False
    pages: int = 1
    orientation: int = 1  # of EXIF and TIFF, 1..8
    hidden: bool = False  # an internal mask of a GeoTIFF hides pixels
    unsupported: str = ""  # content that no decoder here reads

    @property
    def max_value(self) -> int:
        """Largest unsigned value of this depth."""
        return (1 << self.depth) - 1


def parse_header(data: bytes) -> Header:
    """Return the header of an image file; damaged files raise almost any exception."""
    if re.match(TIFF, data):
        return _parse_tiff(data)
    if re.match(JP2, data):
        return _parse_jpeg2000(data)
    return _parse_with_pillow(data)


def _parse_with_pillow(data: bytes) -> Header:
    buffer = io.BytesIO(data)
    image: Any = _open_pillow(buffer)
    depth, unsupported = 8, ""
    if image.mode == "1":
        depth = 1
    if image.format == "PNG":
        depth = data[24]
        if b"IEND\xaeB`\x82" not in data:
            raise ValueError(TRUNCATED)
    if image.format == "JPEG" and data.find(b"\xff\xd9", buffer.tell()) < 0:  # after the first scan begins
        raise ValueError(TRUNCATED)
    if image.format == "PPM" and depth > 1:
        maximum = int(re.sub(rb"#.*", b"", data[:4096]).split(None, 4)[3])
        depth = maximum.bit_length()
        if maximum not in (255, 65535):
            unsupported = f"values of 0..{maximum}"
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        unsupported = f"{frames} animated images"
    is_lossy = image.format == "JPEG"
    if image.format == "WEBP":
        is_lossy = b"VP8 " in re.findall(rb"VP8[ L]", data)[:1]
    has_alpha = "A" in image.mode or "transparency" in image.info
    palette = None
    if image.mode == "P":
        palette = _read_palette(image)
    return Header(
        image.format,
        *image.size,
        bands=len(image.getbands()),
        depth=depth,
        alpha=has_alpha,
        palette=palette,
        key=image.info.get("transparency"),
        colors="CMYK colors" if image.mode == "CMYK" else "",
        lossy=is_lossy,
        orientation=_read_exif_orientation(image, data),
        unsupported=unsupported,
    )


def _open_pillow(buffer: io.BytesIO) -> Image.Image:
    for start, plugin in PLUGINS:
        if re.match(start, buffer.getbuffer()[:16], re.DOTALL):
            return plugin(buffer)
    raise ValueError("not an image")


def _read_palette(image: Image.Image) -> np.ndarray:
    """Return the colors (256, 3) of a palette, or (256, 4) with alpha if some entries are transparent."""
    mode = "RGB" if "transparency" not in image.info else "RGBA"
    image.apply_transparency()  # moves it from ``info`` to the palette
    entries = np.array(image.getpalette(mode), np.uint8).reshape(-1, len(mode))
    palette = np.zeros((256, len(mode)), np.uint8)
    palette[: len(entries)] = entries
    return palette


def _read_exif_orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation, 1..8; Pillow decodes a whole PNG to look for EXIF behind the pixels."""
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # EXIF data are often damaged, which does not affect the image
        return 1


def _parse_tiff(data: bytes) -> Header:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages, all_pages = _image_pages(file), cast("Any", file.pages)
        masks = [page.asarray() for page in all_pages if page.is_mask and not page.is_reduced]
        end = file.pages.next_page_offset or 0
        next_page = data[end : end + file.tiff.offsetsize].strip(b"\0")
    first = pages[0]
    ends = [sum(part) for page in pages for part in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if next_page or max(ends) > len(data):
        raise ValueError(TRUNCATED)
    depths, kinds = np.unique(first.bitspersample), np.unique(first.sampleformat)
    unsupported = ""
    if len(depths) > 1 or len(kinds) > 1 or kinds[0] not in TIFF_KINDS:
        unsupported = "complex values or bands of several types"
    elif len({(page.shape, page.dtype, page.photometric) for page in pages}) > 1:
        unsupported = f"{len(pages)} pages that differ"
    bands = first.samplesperpixel
    has_alpha = bands in (2, 4) and first.extrasamples[:1] in ((1,), (2,))
    palette, orientation = None, 1
    if first.photometric == 3:
        palette = np.zeros((256, 3), np.uint8)
        palette[: first.colormap.shape[1]] = first.colormap.T >> 8
    if 274 in first.tags:
        orientation = first.tags[274].value
    other_colors = f"colors of photometric interpretation {int(first.photometric)}"
    return Header(
        "TIFF",
        first.imagewidth,
        first.imagelength,
        bands,
        int(depths[-1]),
        alpha=has_alpha,
        palette=palette,
        kind=TIFF_KINDS.get(int(kinds[0]), ""),
        colors=TIFF_COLORS.get(first.photometric, other_colors),
        unnamed=first.photometric in (0, 1) and bands > 1 + has_alpha,
        inverted=first.photometric == 0,
        lossy=first.compression in TIFF_LOSSY,
        pages=len(pages),
        orientation=orientation,
        hidden=any(not mask.all() for mask in masks),
        unsupported=unsupported,
    )


def _image_pages(file: Any) -> list[Any]:
    """Return the pages of a TIFF that are neither overviews nor masks."""
    return [
        page
        for number, page in enumerate(file.pages)
        if not (number and page.is_reduced) and not page.is_mask
    ]


def _parse_jpeg2000(data: bytes) -> Header:
    """Read the image size marker (ISO 15444-1, A.5.1); Pillow hides the depth of several bands."""
    at = data.index(b"\xff\x4f\xff\x51")
    right, lower, left, upper = (int.from_bytes(data[at + i : at + i + 4]) for i in (8, 12, 16, 20))
    bands = int.from_bytes(data[at + 40 : at + 42])
    precisions = data[at + 42 : at + 42 + 3 * bands : 3]
    if not data.rstrip(b"\0\n").endswith(b"\xff\xd9"):
        raise ValueError(TRUNCATED)
    return Header(
        "JPEG 2000",
        right - left,
        lower - upper,
        bands,
        max((precision & 127) + 1 for precision in precisions),
        kind="signed" if any(precision & 128 for precision in precisions) else "",
        lossy=True,
        unsupported="a palette" if b"pclr" in data[:at] else "",
    )


def decode(data: bytes, header: Header) -> np.ndarray:
    """Return all bands (H, W, C) as stored, in upright orientation; palette indices are not expanded.

    Raises:
        Exception: the error of the first decoder, if none can read the file.
    """
    errors = []
    for decoder in _choose_decoders(header):
        try:
            image = decoder(data, header)
        except Exception as error:  # decoders raise nearly everything on damaged files
            errors.append(error)
            continue
        if image.ndim == 2:
            image = image[..., None]
        if image.dtype == np.bool_:
            image = image.astype(np.uint8)
        image = _apply_orientation(image, header.orientation)
        if header.key is not None:
            opaque = (image != np.array(header.key, image.dtype)).any(-1, keepdims=True)
            image = np.concatenate([image, opaque * np.array(header.max_value, image.dtype)], axis=-1)
        return image
    raise errors[0]


def _choose_decoders(header: Header) -> list[Callable[[bytes, Header], np.ndarray]]:
    """Return the decoders that read such a file exactly, the fastest first."""
    is_plain = header.palette is None and header.depth >= 8
    if header.format == "TIFF":
        is_single = header.pages == 1 and header.orientation == 1
        is_unusual = header.kind or header.colors or header.unnamed or header.inverted
        decoders = [_decode_tifffile, _decode_rasterio]
        if is_plain and is_single and not is_unusual and header.bands in (1, 3) and header.depth in (8, 16):
            decoders.insert(0, _decode_opencv)
        return decoders
    if header.format == "JPEG 2000" and header.bands not in (1, 3, 4):
        return [_decode_rasterio]
    return [_decode_opencv if is_plain and header.format not in ("GIF", "BMP") else _decode_pillow]


def _decode_opencv(data: bytes, header: Header) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # ignores the orientation
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    if image.ndim == 2:
        return image
    order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[image.shape[2]]
    image = cv2.cvtColor(image, order, dst=image)
    if header.bands == 2:
        return image[..., [0, 3]]
    return image[..., : header.bands]


def _decode_pillow(data: bytes, header: Header) -> np.ndarray:
    image = np.asarray(_open_pillow(io.BytesIO(data)))
    if image.dtype == np.uint8 and header.depth < 8 and header.palette is None:  # spread over 0..255
        return image // (255 // header.max_value)
    return image


def _decode_tifffile(data: bytes, _: Header) -> np.ndarray:
    import tifffile

    bands = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for page in _image_pages(file):
            array = page.asarray()
            if array.ndim == 2:
                array = array[..., None]
            elif page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                array = np.moveaxis(array, 0, -1)
            bands.append(array)
    return np.concatenate(bands, axis=2)


def _decode_rasterio(data: bytes, header: Header) -> np.ndarray:
    import rasterio
    import rasterio.errors

    if header.pages > 1:
        raise ValueError("rasterio reads one page")
    with warnings.catch_warnings(), rasterio.MemoryFile(data) as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with memory.open() as file:
            return np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))


def _apply_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image (H, W, C) upright; ``orientation`` is that of EXIF and TIFF, 1..8."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def expand_values(image: np.ndarray, header: Header) -> np.ndarray:
    """Return stored values as an image: the colors of a palette, 0 as black, at least 8 bits."""
    if header.palette is not None:
        return header.palette[image[..., 0]]
    if header.inverted:
        image = np.subtract(header.max_value, image, dtype=image.dtype)
    if header.depth < 8:
        image = (image.astype(np.uint16) * 255 // header.max_value).astype(np.uint8)
    return image
