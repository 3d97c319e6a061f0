"""What an image file says about itself, read from its bytes without decoding it.

Decoders change much in silence: they cut 16 bits to 8, leave bands out and take the first of several pages.
So the header is looked at first (PNG 1.2, JFIF, TIFF 6.0 and BigTIFF, WebP, BMP, PNM, JPEG 2000).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple


class Header(NamedTuple):
    """How the pixels of a file are stored."""

    format: str
    width: int
    height: int
    bands: int  # alpha counts; a palette is one band of indices
    depth: int  # bits a band
    alpha: bool = False
    palette: bool = False
    lossy: bool = False
    inverted: bool = False  # 0 is white
    values: str = ""  # what kind they are, where not unsigned integers
    pages: int = 1
    orientation: int = 0  # of a TIFF, 1..8 as in EXIF; 0: not looked for
    unnamed: bool = False  # bands that are not said to be colours
    colours: str = ""  # what the bands are, where not grey, colours of a palette or RGB
    odd: str = ""  # what the file holds that is read by nothing here, such as animated images
    end: int = 0  # bytes that the file must at least have


def header_of(data: bytes) -> Header | None:
    """The header, or nothing where the file is cut short, damaged, or of no format that is known."""
    for start, read in FORMATS:
        if re.match(start, data, re.DOTALL):
            try:
                header = read(data)
            except (struct.error, IndexError, ValueError, KeyError):
                return None
            return header if header.end <= len(data) and min(header.width, header.height) > 0 else None
    return None


def _png(data: bytes) -> Header:
    width, height, depth, colour, _, _, _ = struct.unpack_from(">IIBBBBB", data, 16)
    bands = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    at, frames, transparent = 33, 1, False
    while data[at + 4 : at + 8] not in (b"IDAT", b"IEND", b""):
        length, kind = struct.unpack_from(">I4s", data, at)
        frames = struct.unpack_from(">I", data, at + 8)[0] if kind == b"acTL" else frames
        transparent |= kind == b"tRNS"
        at += length + 12
    whole = data.rfind(b"IEND\xaeB`\x82") > 0
    return Header(
        "PNG",
        width,
        height,
        bands,
        depth,
        alpha=colour in (4, 6) or transparent,
        palette=colour == 3,
        odd=f"{frames} animated images" if frames > 1 else "",
        end=0 if whole else len(data) + 1,
    )


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # markers may be padded
            at += 1
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if data[at] != 0xFF or marker == 0xDA:
            raise ValueError("a scan before the frame")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            break
        at += 2 + length
    depth, height, width, bands = struct.unpack_from(">BHHB", data, at + 4)
    whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")  # end of image after the last start of scan
    colours = "CMYK colours" if bands == 4 else ""
    end = 0 if whole else len(data) + 1
    odd = f"{depth}-bit values in a JPEG" if depth > 8 else ""
    return Header("JPEG", width, height, bands, depth, lossy=True, colours=colours, odd=odd, end=end)


TAGS = {
    254: "subfile",
    256: "width",
    257: "height",
    258: "depth",
    262: "photometric",
    273: "offsets",
    277: "bands",
    279: "lengths",
    324: "offsets",
    325: "lengths",
    274: "orientation",
    338: "extra",
    339: "format",
    259: "compression",
}
SAME = ("width", "height", "depth", "bands", "format", "photometric")  # in pages that are bands of one image
MOST_PAGES = 4096


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    at = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    pages: list[dict[str, list[int]]] = []
    places: set[int] = set()
    while at and at not in places and len(places) < MOST_PAGES:
        places.add(at)
        page, at = _directory(data, order, at, big=big)
        if not (page.get("subfile", [0])[0] & 1 and pages):  # a smaller copy of the first is no page
            pages.append(page)
    first = pages[0]
    bands = first.get("bands", [1])[0]
    depths = first.get("depth", [1])
    photometric, formats = first["photometric"][0], set(first.get("format", [1]))
    ends = [a + b for a, b in zip(first["offsets"], first["lengths"], strict=True)]
    return Header(
        "TIFF",
        first["width"][0],
        first["height"][0],
        bands,
        max(depths),
        alpha=first.get("extra", [0])[0] in (1, 2) and bands in (2, 4),
        palette=photometric == 3,
        lossy=first.get("compression", [1])[0] in (6, 7, 34712, 50001),
        inverted=photometric == 0,
        values=" or ".join(sorted(VALUES[kind] for kind in formats & VALUES.keys())),
        pages=len(pages),
        unnamed=photometric in (0, 1)
        and (bands > 2 or (bands == 2 and first.get("extra", [0])[0] not in (1, 2))),
        orientation=first.get("orientation", [1])[0],
        colours=COLOURS.get(photometric, f"colours of photometric interpretation {photometric}"),
        odd=_odd_tiff(set(depths), formats, pages),
        end=max(ends),
    )


VALUES = {2: "signed", 3: "floating-point"}
COLOURS = {0: "", 1: "", 2: "", 3: "", 5: "CMYK colours", 6: ""}


def _odd_tiff(depths: set[int], formats: set[int], pages: list[dict[str, list[int]]]) -> str:
    if formats - {1, 2, 3, 4}:
        return "complex values"
    if len(depths) > 1 or len(formats) > 1:
        return f"bands of {' and '.join(map(str, sorted(depths)))} bits or of several kinds"
    whole = [{key: values for key, values in page.items() if key in SAME} for page in pages]
    return f"{len(pages)} pages that differ" if any(page != whole[0] for page in whole) else ""


def _directory(data: bytes, order: str, at: int, *, big: bool) -> tuple[dict[str, list[int]], int]:
    """Values by name of one image file directory, and where the next one is."""
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)[0]
    at, size, inline = at + (8 if big else 2), 20 if big else 12, 8 if big else 4
    if count * size > len(data):
        raise ValueError("a directory longer than the file")
    entries: dict[str, list[int]] = {}
    for entry in range(at, at + count * size, size):
        tag, kind, number = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, entry)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if tag not in TAGS or letter is None or not number:
            continue
        place, bytes_of = entry + size - inline, struct.calcsize(f"={letter}") * number
        if bytes_of > len(data):
            raise ValueError("values longer than the file")
        if bytes_of > inline:
            place = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, place)[0]
        entries[TAGS[tag]] = list(struct.unpack_from(f"{order}{number}{letter}", data, place))
    return entries, struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, at + count * size)[0]


def _webp(data: bytes) -> Header:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width, height = (int.from_bytes(data[a : a + 3], "little") + 1 for a in (24, 27))
        odd = "animated images" if flags & 2 else ""
        alpha, lossy = bool(flags & 16), b"VP8 " in data[30:]
        return Header("WebP", width, height, 4 if alpha else 3, 8, alpha, lossy=lossy, odd=odd, end=end)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
        return Header("WebP", width, height, 4 if alpha else 3, 8, alpha, end=end)
    width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    return Header("WebP", width, height, 3, 8, lossy=True, end=end)


def _bmp(data: bytes) -> Header:
    start, size, width, height, _, bits, packing = struct.unpack_from("<IIiiHHI", data, 10)
    if size < 40:
        return Header("BMP", 1, 1, 1, 8, odd="a header of OS/2")
    odd = ""
    if packing not in (0, 3) or (packing == 3 and bits != 32):
        odd = "compressed rows"
    elif bits == 16:
        odd = "colours of five bits"
    end = start + (width * bits + 31) // 32 * 4 * abs(height)
    bands, depth = (1, bits) if bits <= 8 else (bits // 8, 8)
    return Header(
        "BMP", width, abs(height), bands, depth, bits == 32, palette=bits <= 8, odd=odd, end=0 if odd else end
    )


def _pnm(data: bytes) -> Header:
    kind = int(data[1:2])
    fields = 2 if kind in (1, 4) else 3
    header = re.match(rb"P\d" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * fields + rb"\s", data[:4096])
    if not header:
        raise ValueError("no header")
    width, height, *most = (int(value) for value in header.groups())
    highest = most[0] if most else 1
    bands, depth = 3 if kind in (3, 6) else 1, highest.bit_length()
    odd = "" if highest in (1, 255, 65535) and (highest != 1 or not most) else f"values of 0..{highest}"
    row = (width + 7) // 8 if kind == 4 else width * bands * (2 if highest > 255 else 1)
    end = header.end() + row * height
    if kind <= 3:  # in words: a digit and a space for each value, at least
        end = header.end() + width * height * bands * (1 if kind == 1 else 2) - 1
        if kind > 1 and len(data[header.end() :].split()) < width * height * bands:
            end = len(data) + 1
    return Header("PNM", width, height, bands, depth, odd=odd, end=end)


def _jp2(data: bytes) -> Header:
    at = data.index(b"\xff\x4f\xff\x51")
    right, lower, left, upper = struct.unpack_from(">IIII", data, at + 8)
    bands = struct.unpack_from(">H", data, at + 40)[0]
    parts = {data[at + 42 + 3 * band] for band in range(bands)}
    depth = max((part & 0x7F) + 1 for part in parts)
    values = "signed" if any(part & 0x80 for part in parts) else ""
    odd = "a palette" if b"pclr" in data[:at] else ""
    whole = data.rstrip(b"\0\n").endswith(b"\xff\xd9")
    return Header(
        "JPEG 2000",
        right - left,
        lower - upper,
        bands,
        depth,
        lossy=True,
        values=values,
        odd=odd,
        end=0 if whole else len(data) + 1,
    )


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", width, height, 1, 8, palette=True, odd="a GIF")


FORMATS: tuple[tuple[bytes, Callable[[bytes], Any]], ...] = (
    (rb"\xff\xd8\xff", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"II[*+]\0|MM\0[*+]", _tiff),
    (rb"RIFF....WEBPVP8[ LX]", _webp),
    (rb"BM", _bmp),
    (rb"P[1-6]\s", _pnm),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _jp2),
    (rb"GIF8[79]a", _gif),
)
