"""A crafted set of image files: each is read as it is stored, against numpy and Pillow, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from crafted import (
    CLEAR,
    DEEP,
    IDS,
    READ,
    REFUSED,
    SCENE,
    VEILED,
    as_pillow,
    encode,
    encode_turned,
    frames,
    png,
    split_in_three,
    tiff,
    write_file,
)
from segkit.data.label_map import DataError
from segkit.data.reading import MIN_CHECKED_PIXELS, read_image, read_mask


@pytest.mark.parametrize("name", READ)
def test_images_are_read_with_their_stored_pixels(tmp_path, name):
    data, pixels = READ[name]
    read = read_image(write_file(tmp_path, name, data))
    exact = pixels is not None or "palette" in name
    expected = as_pillow(data) if pixels is None else pixels
    assert read.shape == expected.shape
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - expected).max() <= (0 if exact else 2)  # decoders round differently


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_applies_to_image_and_mask(tmp_path, orientation):
    data = encode_turned("PNG", orientation)
    file = write_file(tmp_path, "png", data)
    np.testing.assert_array_equal(read_image(file), as_pillow(data))
    np.testing.assert_array_equal(read_mask(file, "any"), as_pillow(data))


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_would_change_are_refused_in_one_line(tmp_path, name):
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        read_image(write_file(tmp_path, name, data))
    assert "\n" not in str(caught.value)
    assert caught.value.problem.remedy


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused_or_read_completely(tmp_path, name, keep):
    """Data after the pixels, such as the video of a motion photo or an overview, may be missing."""
    data, _ = READ[name]
    whole = read_image(write_file(tmp_path, name, data))
    file = write_file(tmp_path, name, data[: int(len(data) * keep)])
    complete = {"bmp of one bit": 0.99, "jpeg with a second image": 0.9, "jpeg with a video": 0.2}
    complete["tiff with overview"] = 0.9
    if keep >= complete.get(name, 1):
        np.testing.assert_array_equal(read_image(file), whole)
        return
    with pytest.raises(DataError, match="is damaged, cut short or not an image"):
        read_image(file)


EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06" + b"\0" * 7  # orientation 6
CELLS = np.array([(0, 0, 0), (200, 0, 0), (0, 0, 90)], np.uint8)[IDS]
PALETTE = (b"PLTE", bytes(range(9)))
UNUSUAL = ("int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float32", "float64")
MASKS = {  # name: bytes, ids or colors
    "png": (encode(IDS, "PNG"), IDS),
    "png of one bit": (png(IDS % 2, 1, 0), IDS % 2),
    "png of two bits": (png(IDS, 2, 0), IDS),
    "png of four bits": (png(IDS, 4, 0), IDS),
    "png of 16 bits": (png(DEEP, 16, 0), DEEP),
    "png palette": (png(IDS, 8, 3, PALETTE), IDS),
    "png palette of two bits": (png(IDS, 2, 3, PALETTE), IDS),
    "png colors": (encode(SCENE, "PNG"), SCENE),
    "png opaque": (encode(CLEAR, "PNG"), SCENE),
    "png gray opaque": (encode(np.dstack([IDS, 255 | IDS]), "PNG"), IDS),
    "bmp": (encode(IDS, "BMP"), IDS),
    "bmp of one bit": (encode(IDS > 1, "BMP"), (IDS > 1).astype(np.uint8)),
    "pgm": (encode(IDS, "PPM"), IDS),
    "pgm of 16 bits": (b"P5 34 21 65535\n" + DEEP.astype(">u2").tobytes(), DEEP),
    "webp": (encode(SCENE, "WEBP", lossless=True, exact=True), SCENE),
    "tiff": (tiff(IDS), IDS),
    "tiff of 16 bits": (tiff(DEEP), DEEP),
    "tiff of 16 bits, big-endian": (tiff(DEEP, byteorder=">", tile=(32, 32)), DEEP),
    **{f"tiff of {kind} ids": (tiff(IDS.astype(kind)), IDS.astype(np.int64)) for kind in UNUSUAL},
    "tiff signed, -1": (tiff(IDS.astype(np.int16) - 1), IDS.astype(np.int64) - 1),
    "tiff float, -1": (tiff(IDS.astype(np.float32) - 1), IDS.astype(np.int64) - 1),
    "gif": (encode(IDS * 50, "GIF"), IDS * 50),
    "gif colors": (encode(CELLS, "GIF"), CELLS),
    "png palette veiled": (png(IDS, 8, 3, PALETTE, (b"tRNS", b"\0")), IDS),
    "png palette turned": (png(IDS, 8, 3, (b"eXIf", EXIF), PALETTE), np.rot90(IDS, -1)),
    "tiff palette": (encode(Image.fromarray(IDS, "P"), "TIFF"), IDS),
    "tiff of one bit": (encode(IDS > 1, "TIFF"), (IDS > 1).astype(np.uint8)),
}
REFUSED_MASKS = {
    "png that is a jpeg": (encode(IDS, "JPEG"), r"lossy compression \(JPEG\)"),
    "webp lossy": (encode(SCENE, "WEBP", quality=90), r"lossy compression \(WEBP\)"),
    "png veiled": (encode(VEILED, "PNG"), "transparent pixels"),
    "png colors of 16 bits": (png(split_in_three(DEEP), 16, 2), "holds 16-bit values"),
    "tiff of fractions": (tiff(IDS / np.float32(2)), "holds fractions, NaN or infinity"),
    "tiff of NaN": (tiff(np.where(IDS, IDS, np.nan)), "holds fractions, NaN or infinity"),
    "tiff of two signed bands": (
        tiff(SCENE[..., :2].astype(np.int16), extrasample="unspecified"),
        "holds signed values",
    ),
    "tiff of two pages": (tiff(IDS, IDS), "holds 2 pages"),
    "tiff white is zero": (tiff(IDS, photometric="miniswhite"), "white as zero"),
    "tiff of two bands": (tiff(SCENE[..., :2].copy(), extrasample="unspecified"), "holds 2 bands"),
    "gif animated": (frames("GIF"), "holds 2 animated images"),
    "gif veiled": (encode(Image.fromarray(CELLS).quantize(), "GIF", transparency=1), "transparent"),
    "pbm": (encode(IDS > 1, "PPM"), "holds 1-bit values"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_read_with_their_stored_values(tmp_path, name):
    data, ids = MASKS[name]
    read = read_mask(write_file(tmp_path, name, data), "any")
    assert read.dtype == ids.dtype
    np.testing.assert_array_equal(read, ids)


@pytest.mark.parametrize("name", REFUSED_MASKS)
def test_masks_that_would_be_changed_are_refused(tmp_path, name):
    data, message = REFUSED_MASKS[name]
    with pytest.raises(DataError, match=message):
        read_mask(write_file(tmp_path, name, data), "any")


@pytest.mark.medium
def test_images_above_the_pixel_limit_of_pillow_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MIN_CHECKED_PIXELS // 2)
    image = Image.new("P", (MIN_CHECKED_PIXELS // 1000 + 1, 1000), 1)
    image.putpalette([9, 9, 9, 1, 2, 3])
    image.save(tmp_path / "a.png", compress_level=0)
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [1, 2, 3]
    assert (read_mask(tmp_path / "a.png", "any") == 1).all()


@pytest.mark.medium
def test_large_mask_of_one_class_is_read(tmp_path):
    file = write_file(tmp_path, "png", png(np.zeros((9000, 9000), np.uint8), 8, 0))
    assert read_mask(file, "ids").shape == (9000, 9000)


def test_png_mask_is_decoded_once(tmp_path, monkeypatch):
    file = write_file(tmp_path, "png", encode(IDS, "PNG"))
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("Pillow decoded what OpenCV decodes"))
    assert (read_mask(file, "any") == IDS).all()
