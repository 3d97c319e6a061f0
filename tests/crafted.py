"""Image files of every kind, made from bytes: the crafted set of the tests of reading."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageOps

DRAW = np.random.default_rng(0)
SCENE = DRAW.integers(0, 256, (21, 34, 3), np.uint8)
GRAY = SCENE[..., 0]
IDS = DRAW.integers(0, 3, (21, 34)).astype(np.uint8)
DEEP = DRAW.integers(0, 4096, (21, 34)).astype(np.uint16)
CLEAR = np.dstack([SCENE, np.full_like(GRAY, 255)])
VEILED = np.dstack([SCENE, GRAY])


def encode(array, form, mode=None, **how):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, form, **how)
    return buffer.getvalue()


def frames(form, **how):
    return encode(SCENE, form, save_all=True, append_images=[Image.fromarray(255 - SCENE)], **how)


def png(array, depth, color, *extra):
    """A PNG of rows as bytes, of any depth and color type."""
    bits = 8 if depth > 8 else depth
    rows = array.astype(">u2").view(np.uint8) if depth == 16 else array
    if bits < 8:
        spread = np.unpackbits(array[..., None], axis=-1)[..., 8 - bits :].reshape(len(array), -1)
        rows = np.packbits(spread, axis=1)
    rows = rows.reshape(len(array), -1)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, color, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


def tiff(*pages, has_overview=False, extrasample="unassalpha", orientation=None, **how):
    """A TIFF of arrays (H, W) or (H, W, C), the last an overview; ``how`` is for tifffile."""
    buffer = io.BytesIO()
    options = {name: how.pop(name) for name in ("byteorder", "bigtiff") if name in how}
    if orientation:
        how["extratags"] = [(274, "H", 1, orientation, True)]
    with tifffile.TiffWriter(buffer, **options) as file:
        for number, page in enumerate(pages):
            settings = {"photometric": "minisblack"}
            if page.ndim == 3:
                photometric = "rgb" if page.shape[2] in (3, 4) else "minisblack"
                settings = {"photometric": photometric, "planarconfig": "contig"}
                extra = page.shape[2] - (3 if (settings | how)["photometric"] == "rgb" else 1)
                settings["extrasamples"] = [extrasample] * extra
            kind = int(has_overview and number == len(pages) - 1)
            file.write(page, metadata=None, contiguous=False, subfiletype=kind, **settings | how)
    return buffer.getvalue()


def bmp_of_16_bits():
    head = struct.pack("<2sIIIIiiHHIIIIII", b"BM", 54 + 68 * 21, 0, 54, 40, 34, 21, 1, 16, 0, 0, 0, 0, 0, 0)
    return head + DEEP.tobytes()


def encode_turned(form, orientation=6, **how):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(SCENE, form, exif=exif, **how)


def split_in_three(gray):
    return np.dstack([gray] * 3)


def as_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


VIDEO = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\0" * 5000
ICC = b"\0" * 36 + b"acsp" + b"\0" * 88 + b"\0\0\0\0"
SUFFIXES = {"jpeg": "jpg", "pgm": "ppm", "pbm": "ppm", "tiff": "tif", "bigtiff": "tif"}


def write_file(folder, name, data):
    """Write a file of bytes, whose suffix follows from the first word of the name."""
    kind = name.split()[0].rstrip(",")
    file = folder / f"a.{SUFFIXES.get(kind, kind)}"
    file.write_bytes(data)
    return file


READ = {  # name: bytes, pixels (None: as Pillow reads them)
    "png": (encode(SCENE, "PNG"), SCENE),
    "png gray": (encode(GRAY, "PNG"), split_in_three(GRAY)),
    "png of one bit": (png(IDS % 2, 1, 0), split_in_three(IDS % 2 * 255)),
    "png of two bits": (png(IDS, 2, 0), split_in_three(IDS * 85)),
    "png of four bits": (png(IDS, 4, 0), split_in_three(IDS * 17)),
    "png palette": (encode(SCENE, "PNG", "P"), None),
    "png opaque": (encode(CLEAR, "PNG"), SCENE),
    "png gray opaque": (encode(np.dstack([GRAY, 255 | GRAY]), "PNG"), split_in_three(GRAY)),
    "png turned": (encode_turned("PNG"), np.rot90(SCENE, -1)),
    "png with a profile": (encode(SCENE, "PNG", icc_profile=ICC), SCENE),
    "tiff that is a png": (encode(SCENE, "PNG"), SCENE),
    "jpeg": (encode(SCENE, "JPEG", quality=95), None),
    "jpeg gray": (encode(GRAY, "JPEG", quality=95), None),
    "jpeg progressive": (encode(SCENE, "JPEG", quality=95, progressive=True), None),
    "jpeg turned": (encode_turned("JPEG", 8, quality=95), None),
    "jpeg with a thumbnail": (encode(SCENE, "MPO", save_all=True, quality=95), None),
    "jpeg with a second image": (frames("MPO", quality=95), None),
    "jpeg with a video": (encode(SCENE, "JPEG", quality=95) + VIDEO, None),
    "webp": (encode(SCENE, "WEBP", lossless=True), SCENE),
    "webp opaque": (encode(CLEAR, "WEBP", lossless=True), SCENE),
    "webp lossy": (encode(SCENE, "WEBP", quality=90), None),
    "bmp": (encode(SCENE, "BMP"), SCENE),
    "bmp gray": (encode(GRAY, "BMP"), split_in_three(GRAY)),
    "bmp palette": (encode(SCENE, "BMP", "P"), None),
    "bmp of one bit": (encode(GRAY > 99, "BMP"), split_in_three((GRAY > 99) * np.uint8(255))),
    "bmp of 16 bits": (bmp_of_16_bits(), None),
    "gif": (encode(SCENE, "GIF"), None),
    "gif gray": (encode(GRAY, "GIF"), split_in_three(GRAY)),
    "ppm": (encode(SCENE, "PPM"), SCENE),
    "pgm": (encode(GRAY, "PPM"), split_in_three(GRAY)),
    "ppm in words": (b"P3 34 21 255 " + b" ".join(b"%d" % v for v in SCENE.ravel()) + b"\n", SCENE),
    "pbm": (encode(GRAY > 99, "PPM"), split_in_three((GRAY > 99) * np.uint8(255))),
    "jp2": (encode(SCENE, "JPEG2000"), SCENE),
    "tiff": (tiff(SCENE), SCENE),
    "tiff big-endian": (tiff(SCENE, byteorder=">"), SCENE),
    "tiff tiled": (tiff(SCENE, tile=(32, 32)), SCENE),
    "tiff tiled big-endian": (tiff(GRAY, tile=(32, 32), byteorder=">"), split_in_three(GRAY)),
    "bigtiff": (tiff(SCENE, bigtiff=True), SCENE),
    "tiff white is zero": (tiff(GRAY, photometric="miniswhite"), split_in_three(255 - GRAY)),
    "tiff with overview": (tiff(SCENE, SCENE[::2, ::2].copy(), has_overview=True), SCENE),
    "tiff opaque": (tiff(CLEAR), SCENE),
    "tiff turned": (tiff(SCENE, orientation=6), np.rot90(SCENE, -1)),
    "tiff palette": (encode(SCENE, "TIFF", "P"), None),
    "tiff of one bit": (encode(GRAY > 99, "TIFF"), split_in_three((GRAY > 99) * np.uint8(255))),
    "tiff lzw": (encode(SCENE, "TIFF", compression="tiff_lzw"), SCENE),
    "tiff deflate": (encode(SCENE, "TIFF", compression="tiff_adobe_deflate"), SCENE),
    "tiff packbits": (encode(SCENE, "TIFF", compression="packbits"), SCENE),
    "tiff fax": (
        encode(GRAY > 99, "TIFF", compression="group4"),
        split_in_three((GRAY > 99) * np.uint8(255)),
    ),
    "tiff jpeg": (encode(SCENE, "TIFF", compression="jpeg", quality=95), None),
}
HUGE = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
HUGE += struct.pack(">I", zlib.crc32(HUGE))
REFUSED = {  # name: bytes, message
    "png of 16 bits": (png(DEEP, 16, 0), "holds 16-bit values"),
    "png rgb of 16 bits": (png(split_in_three(DEEP), 16, 2), "holds 16-bit values"),
    "png veiled": (encode(VEILED, "PNG"), "transparent pixels"),
    "png gray veiled": (encode(np.dstack([GRAY, GRAY]), "PNG"), "transparent pixels"),
    "png palette veiled": (encode(SCENE, "PNG", "P", transparency=bytes(range(256))), "transparent pixels"),
    "png gray with a key": (png(GRAY, 8, 0, (b"tRNS", b"\0" + GRAY[:1, :1].tobytes())), "transparent"),
    "png animated": (frames("PNG"), "holds 2 animated images"),
    "png of 3.6 billion": (encode(SCENE, "PNG").replace(encode(SCENE, "PNG")[12:33], HUGE), "60000x60000"),
    "png bomb": (png(np.zeros((9000, 9000), np.uint8), 8, 0), "declares 9000x9000 pixels in"),
    "jpeg cmyk": (encode(SCENE, "JPEG", "CMYK"), "holds CMYK colors"),
    "jpeg of 12 bits": (
        encode(SCENE, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
        "12-bit",
    ),
    "webp veiled": (encode(VEILED, "WEBP", lossless=True), "transparent pixels"),
    "webp animated": (frames("WEBP"), "holds 2 animated images"),
    "gif animated": (frames("GIF"), "holds 2 animated images"),
    "pgm of 16 bits": (b"P5 34 21 65535\n" + DEEP.astype(">u2").tobytes(), "holds 16-bit values"),
    "pgm of 0..15": (b"P5 34 21 15\n" + IDS.tobytes(), "holds values of 0..15"),
    "jp2 of 16 bits": (encode(Image.fromarray(DEEP), "JPEG2000"), "holds 16-bit values"),
    "jp2 veiled": (encode(VEILED, "JPEG2000"), "holds 4 bands"),
    "tiff of 16 bits": (tiff(DEEP), "holds 16-bit values"),
    "tiff of 16 bits, big-endian": (tiff(DEEP, byteorder=">"), "holds 16-bit values"),
    "tiff of 32 bits": (tiff(DEEP.astype(np.uint32)), "holds 32-bit values"),
    "tiff float": (tiff(DEEP.astype(np.float32)), "holds floating-point values"),
    "tiff double": (tiff(DEEP.astype(np.float64)), "holds floating-point values"),
    "tiff signed": (tiff(DEEP.astype(np.int16)), "holds signed values"),
    "tiff signed bytes": (tiff(GRAY.view(np.int8)), "holds signed values"),
    "tiff veiled": (tiff(VEILED), "transparent pixels"),
    "tiff of four bands": (tiff(VEILED, extrasample="unspecified"), "holds 4 bands"),
    "tiff of three bands": (tiff(SCENE, photometric="minisblack"), "bands not declared as red"),
    "tiff of two bands": (tiff(SCENE[..., :2].copy(), extrasample="unspecified"), "holds 2 bands"),
    "tiff of 13 bands": (tiff(DRAW.integers(0, 256, (21, 34, 13), np.uint8)), "holds 13 bands"),
    "tiff cmyk": (encode(SCENE, "TIFF", "CMYK"), "holds CMYK colors"),
    "tiff lab": (encode(SCENE, "TIFF", "LAB"), "holds colors of photometric interpretation 8"),
    "tiff of two pages": (tiff(SCENE, 255 - SCENE), "holds 2 pages"),
    "bigtiff of two pages": (tiff(SCENE, SCENE, bigtiff=True, byteorder=">"), "holds 2 pages"),
    "text": (b"this is no image", "is damaged, cut short or not an image"),
}
