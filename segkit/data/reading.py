"""Read image and mask files exactly as stored, or refuse them with the fix.

Decoders change much without a word: they cut 16 bits to 8, drop bands and read the first of several pages.
So the header is read first, by Pillow or tifffile. OpenCV decodes photographs, Pillow palettes and fewer than
8 bits, tifffile and rasterio the TIFFs that OpenCV would change.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

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

from segkit.data.label_map import DataError
from segkit.types import PHOTOGRAPHS, Bands

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".gif")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif")

BAND_KEYS = ("bands", "range", "display", "fill")  # of data

Coding = Literal["ids", "any"]  # "any": ids if the file has one channel, colors if it has three

REPLACE = "replace it with an intact copy"
TO_RGB = "save it as an 8-bit RGB or gray PNG"
TO_IDS = "save it as a gray 8-bit PNG of ids"
LARGE = 1 << 26  # pixels from which the file must be large enough to hold them
LARGEST, LONGEST = 1 << 30, 1 << 20  # pixels of an image and of a side: OpenCV's limits
RATIO = {"image": 200, "mask": 1100}  # pixels per byte: photographs reach 50, DEFLATE 1032

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


class Header(NamedTuple):
    """Storage of the pixels of a file."""

    format: str
    width: int
    height: int
    bands: int  # a palette is one band
    depth: int  # bits per band
    alpha: bool = False  # alpha is the last band, is in the palette, or follows from ``key``
    palette: np.ndarray | None = None  # (256, 3) or, with alpha, (256, 4) uint8
    key: Any = None  # the value, or the color, that means transparent
    kind: str = ""  # of the values, where they are not unsigned integers
    colors: str = ""  # the color model, where it is not gray, palette or RGB
    unnamed: bool = False  # several gray bands
    inverted: bool = False  # 0 is white
    lossy: bool = False
    pages: int = 1
    orientation: int = 1  # of EXIF and TIFF, 1..8
    hidden: bool = False  # an internal mask of a GeoTIFF hides pixels
    unsupported: str = ""  # what no reader here reads


def read_image(file: Path, bands: Bands = PHOTOGRAPHS) -> np.ndarray:
    """Return the chosen bands (H, W, C) of an image, turned as its EXIF orientation says.

    Without ``bands.chosen`` C is 3: gray becomes three equal bands, a palette its colors, and an alpha band
    that hides nothing is dropped. Values stay as stored: uint8, uint16 or int16; others become float32.

    Raises:
        DataError: the file is missing or damaged, or ``bands`` does not read all that it holds.
    """
    data = _read_bytes(file)
    header = read_header(data, file, "image")
    _check_bands(header, file, bands)
    image = _expand_values(_decode(data, header, file), header)
    if bands.chosen is None:
        if header.hidden or (header.alpha and _hides_pixels(image, max(8, header.depth))):
            raise DataError(
                "transparent",
                file,
                "has transparent pixels, whose colors mean nothing",
                f"{_describe_opaque_bands(header)}; or put it on a background and {TO_RGB}",
            )
        image = image[..., :3] if image.shape[2] >= 3 else cv2.merge([image[..., 0]] * 3)
    else:
        if (last := max(bands.chosen)) > (count := image.shape[2]):
            text = f"holds {count} band{'s' * (count > 1)}, data.bands asks for number {last}"
            raise DataError("too few bands", file, text, f"numbers go from 1 to {count}")
        image = image[..., [number - 1 for number in bands.chosen]]
    return _convert_type(np.ascontiguousarray(image), file, bands)


def _describe_opaque_bands(header: Header) -> str:
    """Return the settings that read an image with transparent pixels."""
    if not header.alpha:  # an internal mask is no band
        return f"data.bands=[{_band_numbers(header.bands)}] reads the hidden pixels too"
    colors = 3 if header.palette is not None else header.bands - (header.key is None)
    without, with_alpha = _band_numbers(colors), _band_numbers(colors + 1)
    return f"data.bands=[{without}] leaves alpha out and [{with_alpha}] takes it as a band"


def read_mask(file: Path, coding: Coding) -> np.ndarray:
    """Return a mask as stored: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 colors if ``coding`` is any.

    A palette is read as its indices, as labeling tools mean it, if ``coding`` is any; that of a GIF as its
    gray levels or colors. Signed, floating-point and 32-bit or 64-bit ids become int64.

    Raises:
        DataError: the file is missing, damaged or lossy, or holds neither ids nor colors.
    """
    data = _read_bytes(file)
    header = read_header(data, file, "mask")
    colored = header.bands - (header.alpha and header.bands in (2, 4)) == 3
    is_narrow = header.bands > 1 or coding == "ids"  # nothing but 8 unsigned bits
    faults = (
        (header.pages > 1, f"{header.pages} pages"),
        (header.colors, header.colors),
        (header.kind and is_narrow, f"{header.kind} values"),
        (header.inverted, "white as zero, which would invert the ids"),
        (header.depth > 8 and is_narrow, f"{header.depth}-bit values"),
        (header.format == "PPM" and header.depth == 1, "1-bit values"),
        (header.bands > 4 or (header.bands in (2, 4) and not header.alpha), f"{header.bands} bands"),
        (header.palette is not None and coding == "ids", f"a palette {header.format}"),
        (colored and coding == "ids", "three color channels"),
    )
    for text in (text for is_wrong, text in faults if is_wrong):
        kind = re.sub(r"^\d+ ", "", text).removesuffix(" values")
        raise DataError(kind, file, f"holds {text}, not one id per pixel", TO_IDS)
    if header.lossy:
        raise DataError(
            "lossy mask",
            file,
            f"is compressed with loss ({header.format}), which changes ids at every edge",
            "export the mask again from its source as PNG",
        )
    mask = _decode(data, header, file)
    if header.palette is not None and header.format == "GIF":  # its writers reorder palettes
        mask = _expand_values(mask, header)
        colored = bool((mask[..., :3] != mask[..., :1]).any())
    if header.hidden or (header.alpha and mask.shape[2] > 1 and _hides_pixels(mask, header.depth)):
        raise DataError("transparent", file, "has transparent pixels, whose ids mean nothing", TO_IDS)
    if header.kind or header.depth > 16:
        return _convert_to_ids(mask[..., 0], file)
    return np.ascontiguousarray(mask[..., :3] if colored else mask[..., 0])


def _convert_to_ids(mask: np.ndarray, file: Path) -> np.ndarray:
    """Return whole numbers of any type as int64.

    Raises:
        DataError: some are fractions, NaN or infinite.
    """
    values = mask.astype(np.float64)
    if not (values == np.rint(values)).all() or np.isinf(values).any():
        raise DataError("fractions", file, "holds fractions, NaN or infinity, not one id per pixel", TO_IDS)
    return values.clip(-(1 << 53), 1 << 53).astype(np.int64)


def read_size(file: Path) -> tuple[int, int] | None:
    """Return the width and height that the header of an image states; None if its header is damaged.

    Raises:
        DataError: the file is missing.
    """
    try:
        header = read_header(_read_bytes(file), file, "image")
    except DataError as error:
        if error.problem.kind == "unreadable":
            raise
        return None
    return header.width, header.height


def parse_bands(data: Mapping[str, Any]) -> Bands:
    """Return the bands that the settings ``data.bands``, ``range``, ``display`` and ``fill`` mean.

    Raises:
        ValueError: the settings contradict one another.
    """
    chosen, limits, display, fill = (_to_tuples(data.get(key)) for key in BAND_KEYS)
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"data.bands={_format_value(chosen)}: name at least one band, and each once.")
    pairs = () if limits is None or isinstance(limits, str) else limits
    pairs = (pairs,) if pairs and not isinstance(pairs[0], tuple) else pairs
    if any(low >= high for low, high in pairs):
        raise ValueError(
            f"data.range={_format_value(limits)}: black must be less than white. An example is [0,4095]."
        )
    count = 3 if chosen is None else len(chosen)
    if len(pairs) not in (0, 1, count):
        text = f"{len(pairs)} ranges for {count} bands. Give one, or one for each band."
        raise ValueError(f"data.range={_format_value(limits)}: {text}")
    numbers = chosen or (1, 2, 3)
    if display is not None and (len(display) not in (1, 3) or not set(display) <= set(numbers)):
        raise ValueError(
            f"data.display={_format_value(display)}: must be one band (gray) or three (red, green, blue) of "
            f"data.bands={_format_value(numbers)}."
        )
    return Bands(chosen, limits, display, fill)


def _to_tuples(value: Any) -> Any:
    return tuple(map(_to_tuples, value)) if isinstance(value, list | tuple) else value


def _format_value(value: Any) -> str:
    return f"[{','.join(map(_format_value, value))}]" if isinstance(value, tuple) else f"{value}"


def _read_bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError("unreadable", file, error.strerror or str(error), "is data.root complete?") from error
    if not data:
        raise DataError("zero bytes", file, "the file is empty", REPLACE)
    return data


def read_header(data: bytes, file: Path, use: Literal["image", "mask"]) -> Header:
    """Return the header of an image file.

    Raises:
        DataError: it is damaged, declares more pixels than the file can hold, or nothing reads such files.
    """
    try:
        header = _parse_header(data)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged files
        raise _damage_error(file, error) from error
    width, height = header.width, header.height
    if max(width, height) > LONGEST or width * height > min(LARGEST, max(LARGE, RATIO[use] * len(data))):
        text = f"declares {width}x{height} pixels in {len(data)} bytes"
        raise DataError("implausible size", file, text, f"cut it into parts; if it is damaged, {REPLACE}")
    if header.unsupported:
        text = f"holds {header.unsupported}, which would not be read as stored"
        remedy = f"{TO_RGB}, one image per file" if use == "image" else TO_IDS
        raise DataError(header.unsupported.lstrip("0123456789 "), file, text, remedy)
    return header


def _parse_header(data: bytes) -> Header:
    if re.match(TIFF, data):
        return _tiff_header(data)
    if re.match(JP2, data):
        return _jp2_header(data)
    buffer = io.BytesIO(data)
    image: Any = _open_pillow(buffer)
    depth, unsupported = 1 if image.mode == "1" else 8, ""
    if image.format == "JPEG" and data.find(b"\xff\xd9", buffer.tell()) < 0:  # after the first scan begins
        raise ValueError("the end of the image is missing")
    if image.format == "PNG":
        depth = data[24]
        if b"IEND\xaeB`\x82" not in data:
            raise ValueError("the end of the image is missing")
    if image.format == "PPM" and depth > 1:
        most = int(re.sub(rb"#.*", b"", data[:4096]).split(None, 4)[3])
        depth, unsupported = most.bit_length(), "" if most in (255, 65535) else f"values of 0..{most}"
    key = image.info.get("transparency")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        unsupported = f"{frames} animated images"
    return Header(
        image.format,
        *image.size,
        bands=len(image.getbands()),
        depth=depth,
        alpha="A" in image.mode or key is not None,
        palette=_read_palette(image) if image.mode == "P" else None,
        key=None if image.mode == "P" else key,
        colors="CMYK colors" if image.mode == "CMYK" else "",
        lossy=image.format == "JPEG" or (image.format == "WEBP" and _is_lossy_webp(data)),
        orientation=_read_orientation(image, data),
        unsupported=unsupported,
    )


def _is_lossy_webp(data: bytes) -> bool:
    chunk = re.search(rb"VP8[ L]", data)
    return chunk is not None and chunk.group() == b"VP8 "


def _open_pillow(buffer: io.BytesIO) -> Image.Image:
    """Open an image lazily; ``Image.open`` would refuse more than 179 million pixels."""
    for start, plugin in PLUGINS:
        if re.match(start, buffer.getbuffer()[:16], re.DOTALL):
            return plugin(buffer)
    raise ValueError("not an image")


def _read_palette(image: Image.Image) -> np.ndarray:
    """Return the colors (256, 3) of a palette, or (256, 4) with their alpha."""
    entries = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(entries), :3], palette[:, 3] = entries, 255
    key = image.info.get("transparency")
    if isinstance(key, bytes):
        palette[: len(key), 3] = list(key)
    elif key is not None:
        palette[key, 3] = 0
    return palette if key is not None else palette[:, :3]


def _read_orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation, 1..8; Pillow decodes a whole PNG to look for EXIF behind the pixels."""
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # EXIF data are often damaged, which does not affect the image
        return 1


def _tiff_pages(file: Any) -> list[Any]:
    """Return the pages that are images of their own: no smaller copies, no masks."""
    return [
        page
        for number, page in enumerate(file.pages)
        if not (number and page.is_reduced) and not page.is_mask
    ]


def _tiff_header(data: bytes) -> Header:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages, every = _tiff_pages(file), cast("Any", file.pages)
        masks = [page.asarray() for page in every if page.is_mask and not page.is_reduced]
        end = file.pages.next_page_offset or 0
        next_page = data[end : end + file.tiff.offsetsize].strip(b"\0")
    first = pages[0]
    ends = [sum(part) for page in pages for part in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if next_page or max(ends) > len(data):
        raise ValueError("the end of the image is missing")
    bands, extra = first.samplesperpixel, first.extrasamples
    depths, kinds = np.unique(first.bitspersample), np.unique(first.sampleformat)
    unsupported = ""
    if len(depths) > 1 or len(kinds) > 1:
        unsupported = "bands of several types"
    elif kinds[0] not in TIFF_KINDS:
        unsupported = "complex values"
    elif len({(page.shape, page.dtype, page.photometric) for page in pages}) > 1:
        unsupported = f"{len(pages)} pages that differ"
    has_alpha = bands in (2, 4) and extra[:1] in ((1,), (2,))
    palette = None
    if first.photometric == 3:
        palette = np.zeros((256, 3), np.uint8)
        palette[: first.colormap.shape[1]] = first.colormap.T >> 8
    orientation = first.tags.get(274)
    return Header(
        "TIFF",
        first.imagewidth,
        first.imagelength,
        bands,
        int(depths[-1]),
        alpha=has_alpha,
        palette=palette,
        kind=TIFF_KINDS.get(int(kinds[0]), ""),
        colors=TIFF_COLORS.get(
            first.photometric, f"colors of photometric interpretation {int(first.photometric)}"
        ),
        unnamed=first.photometric in (0, 1) and bands > 1 + has_alpha,
        inverted=first.photometric == 0,
        lossy=first.compression in TIFF_LOSSY,
        pages=len(pages),
        orientation=1 if orientation is None else orientation.value,
        hidden=any(not mask.all() for mask in masks),
        unsupported=unsupported,
    )


def _jp2_header(data: bytes) -> Header:
    """Read the image size marker (ISO 15444-1, A.5.1); Pillow hides the depth of several bands."""
    at = data.index(b"\xff\x4f\xff\x51")
    right, lower, left, upper = (int.from_bytes(data[at + i : at + i + 4]) for i in (8, 12, 16, 20))
    bands = int.from_bytes(data[at + 40 : at + 42])
    precisions = data[at + 42 : at + 42 + 3 * bands : 3]
    if not data.rstrip(b"\0\n").endswith(b"\xff\xd9"):
        raise ValueError("the end of the image is missing")
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


def _check_bands(header: Header, file: Path, bands: Bands) -> None:
    """Refuse what ``bands`` does not read as stored, naming the setting that does.

    Raises:
        DataError: with that setting.
    """
    if bands.range is None and (header.kind or header.depth > 8):
        kind = header.kind or f"{header.depth}-bit"
        least = "[LOWEST,HIGHEST]" if header.kind else f"[0,{(1 << header.depth) - 1}]"
        remedy = f"data.range={least} reads them whole; data.range=percentile finds the range in the images"
        raise DataError(kind, file, f"holds {kind} values, which 8 bits would cut", remedy)
    if header.colors and (bands.chosen is None or header.format != "TIFF"):
        remedy = f"{TO_RGB}, one image per file"
        if header.format == "TIFF":
            remedy = f"data.bands=[{_band_numbers(header.bands)}] reads the bands as stored, or {TO_RGB}"
        raise DataError(
            header.colors, file, f"holds {header.colors}, which would not be read as stored", remedy
        )
    if bands.chosen is not None:
        return
    if header.pages > 1:
        remedy = (
            f"data.bands=[{_band_numbers(header.pages * header.bands)}] takes all; or save one image per file"
        )
        raise DataError("pages", file, f"holds {header.pages} pages, of which one would be read", remedy)
    if header.unnamed and header.bands == 3:
        text = "holds three bands that are not said to be red, green and blue"
        raise DataError("no colors", file, text, "choose their order with data.bands=[1,2,3]")
    if header.bands not in (1, 3) and not header.alpha:
        text = f"holds {header.bands} bands, of which {'one' if header.bands == 2 else 'three'} would be read"
        raise DataError(
            "too many bands", file, text, f"choose with data.bands=[{_band_numbers(header.bands)}]"
        )


def _band_numbers(count: int) -> str:
    return ",".join(map(str, range(1, count + 1)))


def _decode(data: bytes, header: Header, file: Path) -> np.ndarray:
    """Return all bands (H, W, C) as stored but turned upright; palette indices are not expanded.

    Raises:
        DataError: no reader that is installed decodes it.
    """
    reasons = []
    for decode in _choose_decoders(header):
        try:
            image = decode(data, header)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly everything on damaged files
            reasons.append(error)
            continue
        image = image if image.ndim == 3 else image[..., None]
        image = _apply_orientation(
            image.astype(np.uint8) if image.dtype == np.bool_ else image, header.orientation
        )
        if header.key is not None:
            opaque = (image != np.array(header.key, image.dtype)).any(-1, keepdims=True)
            image = np.concatenate([image, opaque * np.array((1 << header.depth) - 1, image.dtype)], axis=-1)
        return image
    raise _damage_error(file, reasons[0], tiff=header.format == "TIFF")


def _choose_decoders(header: Header) -> list[Callable[[bytes, Header], np.ndarray]]:
    """Return the decoders of such a file, those that read it exactly, the fastest first."""
    is_plain = header.palette is None and header.depth >= 8
    if header.format == "TIFF":
        usual = header.bands in (1, 3) and header.depth in (8, 16) and header.pages == header.orientation == 1
        usual = usual and not (header.kind or header.colors or header.unnamed or header.inverted)
        decoders = [_decode_tifffile, _decode_rasterio]
        if is_plain:
            return [_decode_opencv, *decoders] if usual else decoders
        return [*decoders, _decode_pillow] if header.pages == header.orientation == 1 else decoders
    if header.format == "JPEG 2000":
        return [_decode_opencv] if header.bands in (1, 3, 4) else [_decode_rasterio]
    return [_decode_opencv if is_plain and header.format not in ("GIF", "BMP") else _decode_pillow]


def _decode_opencv(data: bytes, header: Header) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # unchanged: not turned either
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    if image.ndim == 2:
        return image
    order = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    image = cv2.cvtColor(image, order, dst=image)
    return image[..., [0, 3]] if header.bands == 2 else image[..., : header.bands]


def _decode_pillow(data: bytes, header: Header) -> np.ndarray:
    image = np.asarray(
        Image.open(io.BytesIO(data)) if header.format == "TIFF" else _open_pillow(io.BytesIO(data))
    )
    most = (1 << header.depth) - 1
    if image.dtype == np.uint8 and most < 255 and header.palette is None:  # spread over 0..255
        image = image // (255 // most)
    return most - image if header.inverted else image


def _decode_tifffile(data: bytes, _: Header) -> np.ndarray:
    import tifffile

    bands = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for page in _tiff_pages(file):
            array = page.asarray()
            if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                array = np.moveaxis(array, 0, -1)
            bands.append(array if array.ndim == 3 else array[..., None])
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
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::down, ::across]


def _expand_values(image: np.ndarray, header: Header) -> np.ndarray:
    """Return stored values as an image: the colors of a palette, 0 as black, at least 8 bits."""
    if header.palette is not None:
        return header.palette[image[..., 0]]
    most = (1 << header.depth) - 1
    if header.inverted:
        image = np.subtract(most, image, dtype=image.dtype)
    return (image.astype(np.uint16) * 255 // most).astype(np.uint8) if most < 255 else image


def _hides_pixels(image: np.ndarray, depth: int) -> bool:
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
    holes = ~np.isfinite(image)
    if holes.any():
        if bands.fill is None:
            text = f"holds NaN or infinity in {int(holes.sum())} places"
            raise DataError("not finite", file, text, "data.fill=0 (or another value) replaces them")
        image[holes] = bands.fill
    return image


def _damage_error(file: Path, reason: Exception, *, tiff: bool = False) -> DataError:
    lines = str(reason).splitlines() or [type(reason).__name__]
    remedy = REPLACE
    if tiff and not (importlib.util.find_spec("imagecodecs") and importlib.util.find_spec("rasterio")):
        remedy = f"pip install 'segkit[bands,geo]' reads more kinds of TIFF; if it is damaged, {REPLACE}"
    return DataError(
        "unreadable or truncated", file, f"is damaged, cut short or not an image ({lines[0][:200]})", remedy
    )
