"""Image files of every kind, made from bytes: the crafted set of the tests of reading."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
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


def tiff(*pages, order="<", big=False, tile=0, **tags):
    """A TIFF of arrays (H, W) or (H, W, C), in strips or tiles; ``tags`` like ``t262=5`` replace others."""
    letter, inline = ("Q", 8) if big else ("I", 4)
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42))
    out += struct.pack(f"{order}HHQ", 8, 0, 0) if big else struct.pack(f"{order}I", 0)
    link = len(out) - inline
    for number, page in enumerate(pages):
        array = page if page.ndim == 3 else page[..., None]
        height, width, bands = array.shape
        parts = [array]
        if tile:
            padded = np.pad(array, ((0, -height % tile), (0, -width % tile), (0, 0)))
            corners = itertools.product(range(0, height, tile), range(0, width, tile))
            parts = [padded[y : y + tile, x : x + tile] for y, x in corners]
        offsets = []
        for part in parts:
            offsets.append(len(out))
            out += part.astype(part.dtype.newbyteorder(order)).tobytes()
        out += b"\0" * (len(out) % 2)
        entries = {
            254: [1 if number and tags.get("overview") else 0],
            256: [width],
            257: [height],
            258: [array.dtype.itemsize * 8] * bands,
            259: [1],
            262: [2 if bands >= 3 else 1],
            (324 if tile else 273): offsets,
            277: [bands],
            (325 if tile else 279): [part.nbytes for part in parts],
            339: [{"u": 1, "i": 2, "f": 3}[array.dtype.kind]] * bands,
        }
        entries |= {322: [tile], 323: [tile]} if tile else {278: [height]}
        if bands in (2, 4):
            entries[338] = [2]
        entries |= {int(k[1:]): list(np.atleast_1d(v)) for k, v in tags.items() if k != "overview"}
        placed = {}
        for tag, values in entries.items():
            data = struct.pack(f"{order}{len(values)}I", *values)
            if len(data) > inline:
                placed[tag] = len(out)
                out += data
        struct.pack_into(f"{order}{letter}", out, link, len(out))
        out += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
        for tag in sorted(entries):
            data = struct.pack(f"{order}{len(entries[tag])}I", *entries[tag])
            if tag in placed:
                data = struct.pack(f"{order}{letter}", placed[tag])
            out += struct.pack(f"{order}HH{letter}", tag, 4, len(entries[tag])) + data.ljust(inline, b"\0")
        link = len(out)
        out += b"\0" * inline
    return bytes(out)


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
READ = {  # name: suffix, bytes, pixels (None: as Pillow reads them)
    "png": ("png", encode(SCENE, "PNG"), SCENE),
    "png gray": ("png", encode(GRAY, "PNG"), split_in_three(GRAY)),
    "png of one bit": ("png", png(IDS % 2, 1, 0), split_in_three(IDS % 2 * 255)),
    "png of two bits": ("png", png(IDS, 2, 0), split_in_three(IDS * 85)),
    "png of four bits": ("png", png(IDS, 4, 0), split_in_three(IDS * 17)),
    "png palette": ("png", encode(SCENE, "PNG", "P"), None),
    "png opaque": ("png", encode(CLEAR, "PNG"), SCENE),
    "png gray opaque": ("png", encode(np.dstack([GRAY, 255 | GRAY]), "PNG"), split_in_three(GRAY)),
    "png turned": ("png", encode_turned("PNG"), np.rot90(SCENE, -1)),
    "png with a profile": ("png", encode(SCENE, "PNG", icc_profile=ICC), SCENE),
    "png in the name of tiff": ("tif", encode(SCENE, "PNG"), SCENE),
    "jpeg": ("jpg", encode(SCENE, "JPEG", quality=95), None),
    "jpeg gray": ("jpg", encode(GRAY, "JPEG", quality=95), None),
    "jpeg progressive": ("jpg", encode(SCENE, "JPEG", quality=95, progressive=True), None),
    "jpeg turned": ("jpg", encode_turned("JPEG", 8, quality=95), None),
    "jpeg with a thumbnail": ("jpg", encode(SCENE, "MPO", save_all=True, quality=95), None),
    "jpeg with a second image": ("jpg", frames("MPO", quality=95), None),
    "jpeg with a video": ("jpg", encode(SCENE, "JPEG", quality=95) + VIDEO, None),
    "webp": ("webp", encode(SCENE, "WEBP", lossless=True), SCENE),
    "webp opaque": ("webp", encode(CLEAR, "WEBP", lossless=True), SCENE),
    "webp lossy": ("webp", encode(SCENE, "WEBP", quality=90), None),
    "bmp": ("bmp", encode(SCENE, "BMP"), SCENE),
    "bmp gray": ("bmp", encode(GRAY, "BMP"), split_in_three(GRAY)),
    "bmp palette": ("bmp", encode(SCENE, "BMP", "P"), None),
    "bmp of one bit": ("bmp", encode(GRAY > 99, "BMP"), split_in_three((GRAY > 99) * np.uint8(255))),
    "bmp of 16 bits": ("bmp", bmp_of_16_bits(), None),
    "gif": ("gif", encode(SCENE, "GIF"), None),
    "gif gray": ("gif", encode(GRAY, "GIF"), split_in_three(GRAY)),
    "ppm": ("ppm", encode(SCENE, "PPM"), SCENE),
    "pgm": ("ppm", encode(GRAY, "PPM"), split_in_three(GRAY)),
    "ppm in words": ("ppm", b"P3 34 21 255 " + b" ".join(b"%d" % v for v in SCENE.ravel()) + b"\n", SCENE),
    "pbm": ("ppm", encode(GRAY > 99, "PPM"), split_in_three((GRAY > 99) * np.uint8(255))),
    "jp2": ("jp2", encode(SCENE, "JPEG2000"), SCENE),
    "tiff": ("tif", tiff(SCENE), SCENE),
    "tiff big-endian": ("tif", tiff(SCENE, order=">"), SCENE),
    "tiff tiled": ("tif", tiff(SCENE, tile=32), SCENE),
    "tiff tiled big-endian": ("tif", tiff(GRAY, tile=32, order=">"), split_in_three(GRAY)),
    "bigtiff": ("tif", tiff(SCENE, big=True), SCENE),
    "tiff white is zero": ("tif", tiff(GRAY, t262=0), split_in_three(255 - GRAY)),
    "tiff with overview": ("tif", tiff(SCENE, SCENE[::2, ::2].copy(), overview=True), SCENE),
    "tiff opaque": ("tif", tiff(CLEAR), SCENE),
    "tiff turned": ("tif", tiff(SCENE, t274=6), np.rot90(SCENE, -1)),
    "tiff palette": ("tif", encode(SCENE, "TIFF", "P"), None),
    "tiff of one bit": ("tif", encode(GRAY > 99, "TIFF"), split_in_three((GRAY > 99) * np.uint8(255))),
    "tiff lzw": ("tif", encode(SCENE, "TIFF", compression="tiff_lzw"), SCENE),
    "tiff deflate": ("tif", encode(SCENE, "TIFF", compression="tiff_adobe_deflate"), SCENE),
    "tiff packbits": ("tif", encode(SCENE, "TIFF", compression="packbits"), SCENE),
    "tiff fax": (
        "tif",
        encode(GRAY > 99, "TIFF", compression="group4"),
        split_in_three((GRAY > 99) * np.uint8(255)),
    ),
    "tiff jpeg": ("tif", encode(SCENE, "TIFF", compression="jpeg", quality=95), None),
}
HUGE = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
HUGE += struct.pack(">I", zlib.crc32(HUGE))
REFUSED = {  # name: suffix, bytes, message
    "png of 16 bits": ("png", png(DEEP, 16, 0), "holds 16-bit values"),
    "png rgb of 16 bits": ("png", png(split_in_three(DEEP), 16, 2), "holds 16-bit values"),
    "png veiled": ("png", encode(VEILED, "PNG"), "transparent pixels"),
    "png gray veiled": ("png", encode(np.dstack([GRAY, GRAY]), "PNG"), "transparent pixels"),
    "png palette veiled": (
        "png",
        encode(SCENE, "PNG", "P", transparency=bytes(range(256))),
        "transparent pixels",
    ),
    "png gray with a key": ("png", png(GRAY, 8, 0, (b"tRNS", b"\0" + GRAY[:1, :1].tobytes())), "transparent"),
    "png animated": ("png", frames("PNG"), "holds 2 animated images"),
    "png of 3.6 billion": (
        "png",
        encode(SCENE, "PNG").replace(encode(SCENE, "PNG")[12:33], HUGE),
        "60000x60000",
    ),
    "png bomb": ("png", png(np.zeros((9000, 9000), np.uint8), 8, 0), "declares 9000x9000 pixels in"),
    "jpeg cmyk": ("jpg", encode(SCENE, "JPEG", "CMYK"), "holds CMYK colors"),
    "jpeg of 12 bits": (
        "jpg",
        encode(SCENE, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
        "12-bit",
    ),
    "webp veiled": ("webp", encode(VEILED, "WEBP", lossless=True), "transparent pixels"),
    "webp animated": ("webp", frames("WEBP"), "holds 2 animated images"),
    "gif animated": ("gif", frames("GIF"), "holds 2 animated images"),
    "pgm of 16 bits": ("ppm", b"P5 34 21 65535\n" + DEEP.astype(">u2").tobytes(), "holds 16-bit values"),
    "pgm of 0..15": ("ppm", b"P5 34 21 15\n" + IDS.tobytes(), "holds values of 0..15"),
    "jp2 of 16 bits": ("jp2", encode(Image.fromarray(DEEP), "JPEG2000"), "holds 16-bit values"),
    "jp2 veiled": ("jp2", encode(VEILED, "JPEG2000"), "holds 4 bands"),
    "tiff of 16 bits": ("tif", tiff(DEEP), "holds 16-bit values"),
    "tiff of 16 bits, big-endian": ("tif", tiff(DEEP, order=">"), "holds 16-bit values"),
    "tiff of 32 bits": ("tif", tiff(DEEP.astype(np.uint32)), "holds 32-bit values"),
    "tiff float": ("tif", tiff(DEEP.astype(np.float32)), "holds floating-point values"),
    "tiff double": ("tif", tiff(DEEP.astype(np.float64)), "holds floating-point values"),
    "tiff signed": ("tif", tiff(DEEP.astype(np.int16)), "holds signed values"),
    "tiff signed bytes": ("tif", tiff(GRAY.view(np.int8)), "holds signed values"),
    "tiff veiled": ("tif", tiff(VEILED), "transparent pixels"),
    "tiff of four bands": ("tif", tiff(VEILED, t338=0), "holds 4 bands"),
    "tiff of three bands": ("tif", tiff(SCENE, t262=1), "bands not declared as red"),
    "tiff of two bands": ("tif", tiff(SCENE[..., :2].copy(), t338=0), "holds 2 bands"),
    "tiff of 13 bands": ("tif", tiff(DRAW.integers(0, 256, (21, 34, 13), np.uint8)), "holds 13 bands"),
    "tiff cmyk": ("tif", encode(SCENE, "TIFF", "CMYK"), "holds CMYK colors"),
    "tiff lab": ("tif", encode(SCENE, "TIFF", "LAB"), "holds colors of photometric interpretation 8"),
    "tiff of two pages": ("tif", tiff(SCENE, 255 - SCENE), "holds 2 pages"),
    "bigtiff of two pages": ("tif", tiff(SCENE, SCENE, big=True, order=">"), "holds 2 pages"),
    "tiff that ends nowhere": ("tif", tiff(SCENE, t273=1 << 30), "is damaged, cut short or not an image"),
    "text": ("png", b"this is no image", "is damaged, cut short or not an image"),
}
