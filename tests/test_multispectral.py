"""Images of any bands and values: read with the settings that mean them, trained on, shown and predicted."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image

import segkit
from conftest import run_command, write_image
from crafted import (
    DEEP,
    DRAW,
    GRAY,
    IDS,
    READ,
    REFUSED,
    SCENE,
    VEILED,
    encode,
    png,
    split_in_three,
    tiff,
    write_file,
)
from runs import TINY
from segkit.data import loaders, statistics, transforms
from segkit.data.datasets import folder
from segkit.data.label_map import DataError
from segkit.data.reading import parse_bands, read_image
from segkit.models.network import Segmenter
from segkit.types import PHOTOGRAPHS, Bands, Sample
from segkit.visualize import overlays

MANY = DRAW.integers(0, 256, (21, 34, 13), np.uint8)
LEVELS = (DRAW.normal(size=(21, 34, 4)) * 300).astype(np.float32)
WIDE = Bands(range=(0.0, 65535.0))


def all_of(count, limits=None):
    return Bands(tuple(range(1, count + 1)), limits)


def pillow_of(name, mode=None):
    with Image.open(io.BytesIO(REFUSED[name][0])) as image:
        return np.array(image.convert(mode))


PLACE = rasterio.Affine(10, 0, 399960, 0, -10, 4900020)


def profile_of(array, driver, **more):
    height, width, count = array.shape
    size = {"height": height, "width": width, "count": count, "dtype": array.dtype}
    return {"driver": driver, "transform": PLACE, **size, **more}


def jp2(array):
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile_of(array, "JP2OpenJPEG", QUALITY=100, REVERSIBLE=True)) as file:
            file.write(np.moveaxis(array, -1, 0))
        return memory.read()


DEEP_BANDS = np.dstack([DEEP, DEEP + 1, DEEP + 2, DEEP + 3])
KEYED = np.where(GRAY[..., None] == GRAY[0, 0], 0, 255).astype(np.uint8)
DEEP_GRAY, SIGNED = DEEP[..., None], GRAY.view(np.int8)[..., None]
MEANT = {  # name of a refused file, or of another: its bytes; the settings that read it; what then comes
    "png of 16 bits": (None, WIDE, split_in_three(DEEP)),
    "png of 16 bits, one band": (None, all_of(1, (0, 4095)), DEEP_GRAY),
    "png rgb of 16 bits, three bands": (png(DEEP_BANDS[..., :3], 16, 2), WIDE, DEEP_BANDS[..., :3]),
    "png rgba of 16 bits": (png(DEEP_BANDS, 16, 6), all_of(4, (0, 65535)), DEEP_BANDS),
    "png veiled, colors alone": (None, all_of(3), SCENE),
    "png veiled, alpha first": (None, Bands((4, 1)), VEILED[..., [3, 0]]),
    "png gray veiled": (None, all_of(2), np.dstack([GRAY, GRAY])),
    "png palette veiled": (None, all_of(3), pillow_of("png palette veiled", "RGBA")[..., :3]),
    "png gray with a key": (None, all_of(2), np.dstack([GRAY, KEYED])),
    "webp rgba": (encode(VEILED, "WEBP", lossless=True, exact=True), all_of(4), VEILED),
    "pgm of 16 bits": (None, WIDE, split_in_three(DEEP)),
    "jp2 of 16 bits": (None, all_of(1, (0, 4095)), DEEP_GRAY),
    "jp2 veiled": (None, all_of(4), VEILED),
    "jp2 of two bands": (encode(SCENE[..., :2], "JPEG2000"), all_of(2), SCENE[..., :2]),
    "jp2 of many bands": (jp2(MANY), Bands((3, 2, 1, 13)), MANY[..., [2, 1, 0, 12]]),
    "tiff of 16 bits": (None, WIDE, split_in_three(DEEP)),
    "tiff of 16 bits, big-endian": (None, WIDE, split_in_three(DEEP)),
    "tiff of 32 bits": (None, WIDE, split_in_three(DEEP).astype(np.float32)),
    "tiff float": (None, WIDE, split_in_three(DEEP).astype(np.float32)),
    "tiff double": (None, WIDE, split_in_three(DEEP).astype(np.float32)),
    "tiff signed": (None, WIDE, split_in_three(DEEP).astype(np.int16)),
    "tiff signed bytes": (None, all_of(1, (-128, 127)), SIGNED.astype(np.int16)),
    "tiff veiled": (None, all_of(4), VEILED),
    "tiff of four bands": (None, Bands((4, 3, 2)), VEILED[..., [3, 2, 1]]),
    "tiff of three bands": (None, Bands((3, 2, 1)), SCENE[..., ::-1]),
    "tiff of two bands": (None, all_of(2), SCENE[..., :2]),
    "tiff of bands": (tiff(MANY), Bands((3, 2, 1, 13)), MANY[..., [2, 1, 0, 12]]),
    "tiff cmyk": (None, all_of(4), pillow_of("tiff cmyk")),
    "tiff lab": (None, all_of(3), pillow_of("tiff lab")),
    "tiff of two pages": (None, all_of(6), np.dstack([SCENE, 255 - SCENE])),
    "tiff of gray pages": (tiff(GRAY, IDS), Bands((2,)), IDS[..., None]),
    "tiff with overview": (tiff(MANY, MANY[::2, ::2].copy(), has_overview=True), all_of(13), MANY),
    "tiff in planes": (
        tiff(np.moveaxis(MANY, -1, 0), planarconfig="separate", extrasamples=["unspecified"] * 12),
        all_of(13),
        MANY,
    ),
    "tiff of floats": (
        tiff(LEVELS, tile=(16, 16), compression="deflate", predictor=True),
        all_of(4, (-900.0, 900.0)),
        LEVELS,
    ),
    "tiff lzw": (tiff(DEEP, compression="lzw", predictor=True), all_of(1, (0, 4095)), DEEP_GRAY),
    "tiff white is zero": (tiff(DEEP, photometric="miniswhite"), all_of(1, (0, 65535)), 65535 - DEEP_GRAY),
    "tiff turned": (tiff(MANY, orientation=6), all_of(13), np.rot90(MANY, -1)),
    "tiff of 12 bits": (tiff(DEEP, bitspersample=12), all_of(1, (0, 4095)), DEEP_GRAY),
    "bigtiff": (tiff(LEVELS, bigtiff=True, byteorder=">"), all_of(4, (-900.0, 900.0)), LEVELS),
}
NEVER = {  # no setting reads these; each message has the fix
    *("png animated", "png of 3.6 billion", "png bomb", "jpeg cmyk", "jpeg of 12 bits", "webp animated"),
    *("gif animated", "pgm of 0..15", "text"),
}


def get_meant(name):
    data, meant, expected = MEANT[name]
    if data is None:
        data, _ = REFUSED.get(name) or REFUSED[name.partition(",")[0]]
    return data, meant, expected


@pytest.mark.parametrize("name", MEANT)
def test_bands_are_read_with_their_stored_values(tmp_path, name):
    data, meant, expected = get_meant(name)
    found = read_image(write_file(tmp_path, name, data), meant)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - NEVER))
def test_setting_named_in_the_error_reads_the_file(tmp_path, name):
    """What is typed after the message is done by the message itself."""
    data, _ = REFUSED[name]
    file, meant = write_file(tmp_path, name, data), PHOTOGRAPHS
    for _ in range(2):  # a file of 16 bits and four bands needs two settings
        try:
            read_image(file, meant)
            break
        except DataError as error:
            key, value = re.match(r"data.(bands|range)=\[(.*?)\]", error.problem.remedy).groups()
        numbers = tuple(map(int, value.replace("LOWEST,HIGHEST", "0,1").split(",")))
        meant = meant._replace(**{"chosen" if key == "bands" else "range": numbers})
    assert meant != PHOTOGRAPHS
    assert read_image(file, meant).ndim == 3


@pytest.mark.parametrize("name", sorted(NEVER))
@pytest.mark.parametrize("meant", [all_of(1), all_of(3, "percentile"), all_of(4, (0, 1))])
def test_unsupported_files_are_refused_with_any_bands(tmp_path, name, meant):
    data, _ = REFUSED[name]
    with pytest.raises(DataError):
        read_image(write_file(tmp_path, name, data), meant)


@pytest.mark.parametrize("name", [name for name in READ if "thumbnail" not in name])
def test_photographs_are_equal_with_and_without_bands(tmp_path, name):
    data, _ = READ[name]
    file = write_file(tmp_path, name, data)
    plain = read_image(file)
    np.testing.assert_array_equal(read_image(file, Bands(range=(0.0, 255.0))), plain)
    gray = (plain[..., :1] == plain).all()
    np.testing.assert_array_equal(read_image(file, Bands((1,))), plain[..., :1])
    if not gray:
        np.testing.assert_array_equal(read_image(file, Bands((3, 1))), plain[..., [2, 0]])


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_truncated_multispectral_files_are_refused(tmp_path, name, keep):
    data, meant, _ = get_meant(name)
    with pytest.raises(DataError, match="is damaged, cut short or not an image"):
        read_image(write_file(tmp_path, name, data[: int(len(data) * keep)]), meant)


def test_missing_bands_and_nan_are_refused(tmp_path):
    file = write_file(tmp_path, "tiff", tiff(VEILED))
    with pytest.raises(DataError, match=r"has 4 bands, but data.bands includes 8; choose from 1 to 4"):
        read_image(file, Bands((3, 8)))
    holes = LEVELS.copy()
    holes[3, 4, 1] = np.nan
    file = write_file(tmp_path, "tiff", tiff(holes))
    with pytest.raises(DataError, match=r"holds NaN or infinity in 1 places; data.fill=0"):
        read_image(file, all_of(4, (0, 1)))
    holes[3, 4, 1] = -7
    np.testing.assert_array_equal(read_image(file, Bands((1, 2, 3, 4), (0, 1), fill=-7.0)), holes)


@pytest.mark.medium
@pytest.mark.parametrize("missing", [(), ("imagecodecs",), ("rasterio",), ("imagecodecs", "rasterio")])
def test_compressed_tiffs_are_read_by_installed_packages(tmp_path, missing):
    """Without both extras they are refused in one line that names them, unless the file needs neither."""
    colors = np.ascontiguousarray(MANY[..., :3])
    for compression in ("lzw", "zstd", "lerc", "lzma", "webp"):
        level = {"level": -1} if compression == "webp" else None  # without loss
        file = tmp_path / f"{compression}.tif"
        tifffile.imwrite(file, colors, photometric="rgb", compression=compression, compressionargs=level)
    (tmp_path / "bands.jp2").write_bytes(jp2(colors[..., [0, 1, 2, 0, 1]]))
    script = f"""
import sys
for name in {missing}:
    sys.modules[name] = None
import numpy as np, pathlib
from segkit.data.reading import read_image
from segkit.types import Bands
for file in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
    try:
        np.save(file.with_suffix(".npy"), read_image(file, Bands((1, 2, 3))))
    except ValueError as error:
        print(error)
"""
    printed = run_command("-c", script).stdout
    for file in tmp_path.glob("*.npy"):
        np.testing.assert_array_equal(np.load(file), colors)
    refused_files = ["bands"] if "rasterio" in missing else []
    if len(missing) == 2:
        refused_files += ["lerc", "webp", "zstd"]
    if sys.version_info >= (3, 14) and len(missing) == 2:
        refused_files.remove("zstd")  # the standard library reads it
    assert [Path(line.split(": ")[0]).stem for line in printed.splitlines()] == refused_files
    assert printed.count("pip install 'segkit[bands,geo]'") == len(refused_files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": [1, 1]}, "must list at least one band, and each once"),
        ({"range": [5, 5]}, "black must be less than white"),
        ({"bands": [1, 2], "range": [[0, 1]] * 3}, "one such pair for each of 2 bands"),
        ({"bands": [3, 2, 1, 8], "display": [4]}, r"data.display=\[4\]: must be one band"),
    ],
)
def test_contradictory_band_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_bands(settings)


KINDS = {
    np.uint8: (0.0, 255.0),
    np.uint16: (0.0, 4095.0),
    np.int16: (-500.0, 1500.0),
    np.float32: (-1.0, 3.0),
}


def noise(kind, count, size=(40, 56), seed=0):
    low, high = KINDS[kind]
    values = np.random.default_rng(seed).uniform(low, high, (*size, count))
    return values.astype(kind) if kind == np.float32 else np.rint(values).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 4, 13])
@pytest.mark.parametrize("resize", ["pil_bilinear", "pil_bicubic", "opencv_linear"])
@pytest.mark.parametrize("rotation", [0, 20])
def test_each_band_is_augmented_independently(kind, count, resize, rotation):
    image, label = noise(kind, count), np.random.default_rng(1).integers(0, 3, (40, 56)).astype(np.uint8)
    meant = Bands(tuple(range(1, count + 1)), KINDS[kind])
    transform = transforms.Augmentation(
        crop_size=(48, 36), base_size=60, scales=(0.6, 1.4), resize=resize, rotation=rotation
    )
    for seed in range(4):
        found = transform(Sample(image, label, "a", meant), seed)
        assert (found.image.dtype, found.image.shape) == (image.dtype, (48, 36, count))
        for band in range(count):
            alone = Sample(image[..., band : band + 1], label, "a", Bands((1,), KINDS[kind]))
            expected = transform(alone, seed)
            np.testing.assert_array_equal(found.label, expected.label)
            apart = np.abs(found.image[..., band].astype(float) - expected.image[..., 0]).max()
            assert apart <= (1e-3 if kind == np.float32 else 1)  # OpenCV rounds several bands otherwise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resize", ["pil_bilinear", "opencv_linear"])
def test_integers_are_resized_like_their_float_values(kind, resize):
    image, label = noise(kind, 2), np.zeros((40, 56), np.uint8)
    transform = transforms.Augmentation(crop_size=(48, 36), base_size=60, scales=(0.6, 1.4), resize=resize)
    for seed in range(10):
        found = transform(Sample(image, label, "a", Bands((1, 2), KINDS[kind])), seed).image
        floats = Sample(image.astype(np.float32), label, "a", Bands((1, 2), KINDS[kind]))
        assert np.abs(found - transform(floats, seed).image).max() <= (0 if kind == np.float32 else 1.01)


@pytest.mark.parametrize("kind", KINDS)
def test_brightness_and_contrast_are_relative_to_the_range(kind):
    low, high = KINDS[kind]
    image, label = noise(kind, 4), np.zeros((40, 56), np.uint8)
    transform = transforms.Augmentation(crop_size=None, scales=(1.0, 1.0), hflip=0, color_jitter=0.7)
    changed = 0
    for seed in range(12):
        found = transform(Sample(image, label, "a", Bands((1, 2, 3, 4), (low, high))), seed).image
        share = (image.astype(np.float64) - low) / (high - low)
        unit = transform(
            Sample(share.astype(np.float32), label, "a", Bands((1, 2, 3, 4), (0.0, 1.0))), seed
        ).image
        expected = low + unit * (high - low)
        if kind != np.float32:
            expected = expected.clip(np.iinfo(kind).min, np.iinfo(kind).max)
        assert np.abs(found - expected).max() <= 0.51 + 1e-3
        changed += np.abs(unit - share).max() > 0.01
    assert changed > 6
    with pytest.raises(ValueError, match=r"augment.padding=mean .* choose augment.padding=black"):
        transforms.Augmentation(crop_size=64, padding="mean")(
            Sample(image, label, "a", Bands((1, 2, 3, 4), (low, high))), 0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_batches_hold_stored_values_and_are_normalized_later(kind):
    low, high = KINDS[kind]
    image, label = noise(kind, 5), np.zeros((40, 56), np.uint8)
    meant = Bands((1, 2, 3, 4, 5), (low, high))

    class One:
        name, on_error, names = "one", "stop", ["a"]

        def __len__(self):
            return 1

        def read(self, index):
            return Sample(image, label, "a", meant)

    transform = transforms.Augmentation(crop_size=None, scales=(1.0, 1.0), hflip=0)
    (batch,) = loaders.TrainingLoader(One(), transform, loaders.SampleOrder(1, 0, 1), iterations=range(1))
    np.testing.assert_array_equal(batch.image.numpy(), np.moveaxis(image, -1, 0)[None])
    assert (batch.image.numpy().dtype, batch.bands) == (image.dtype, meant)
    mean, std = np.linspace(0.1, 0.9, 5), np.linspace(0.2, 0.6, 5)
    model = Segmenter(
        torch.nn.Identity(), torch.nn.Identity(), num_classes=2, mean=mean, std=std, value_range=(low, high)
    )
    expected = ((image.astype(np.float64) - low) / (high - low) - mean) / std
    np.testing.assert_allclose(model.normalize(batch.image)[0].permute(1, 2, 0), expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_band_statistics_match_numpy_over_all_values(tmp_path, kind, count):
    write_set(tmp_path, kind, count, names=("train/a", "train/b", "train/c"))
    meant = {"bands": tuple(range(1, count + 1)), "range": "percentile"}
    dataset = folder.build("train", root=str(tmp_path), **meant)
    values = np.concatenate([dataset.read(i).image.reshape(-1, count) for i in range(3)]).astype(np.float64)
    found = statistics.compute_statistics(dataset)
    np.testing.assert_allclose(found.bands.mean, values.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.bands.std, values.std(0), rtol=1e-6)
    np.testing.assert_array_equal(found.bands.least, values.min(0))
    np.testing.assert_array_equal(found.bands.most, values.max(0))
    low, high = np.percentile(values, (0.5, 99.5), axis=0)
    np.testing.assert_allclose(found.bands.value_ranges(dataset.bands), np.stack([low, high], 1), rtol=1e-6)
    shares = (values - low) / (high - low)
    mean, std = found.bands.normalization(found.bands.value_ranges(dataset.bands))
    np.testing.assert_allclose(mean, shares.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, shares.std(0), atol=1e-6)
    assert found.bands.value_ranges(Bands(range="minmax")) == tuple(
        zip(values.min(0), values.max(0), strict=True)
    )


def test_display_shows_the_chosen_bands_in_their_range():
    image = noise(np.uint16, 4)
    meant = Bands((3, 2, 1, 8), (0.0, 4095.0))
    scaled = np.rint(image / 4095 * 255).astype(np.uint8)
    for display, places in ((None, [0, 1, 2]), ((8,), [3, 3, 3]), ((8, 1, 2), [3, 2, 1])):
        shown = overlays.to_display_rgb(image, meant._replace(display=display))
        np.testing.assert_array_equal(shown, scaled[..., places])
    photograph = noise(np.uint8, 3)
    assert overlays.to_display_rgb(photograph) is photograph


def write_set(root, kind, count, names=("train/a", "train/b", "val/c"), size=(40, 56)):
    """Images of the kind whose masks are brighter in band 1: something to learn."""
    low, high = KINDS[kind]
    photometric = "rgb" if kind == np.uint8 and count == 3 else "minisblack"
    for index, name in enumerate(names):
        mask = (np.indices(size).sum(0) // (9 + index) % 2).astype(np.uint8)
        image = noise(kind, count, size, index)
        image[..., 0] = np.where(mask, low + (high - low) * 0.9, low + (high - low) * 0.2).astype(kind)
        write_image(root / f"masks/{name}.png", mask)
        file = root / f"images/{name}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiff(image[..., 0] if count == 1 else image, photometric=photometric))
    (root / "classes.csv").write_text("id,name\n0,dark\n1,bright\n")


@pytest.mark.medium
def test_four_16_bit_bands_train_test_and_predict(tmp_path, run_here, capsys):
    """Run the commands with the bands alone; the rest comes from the checkpoint."""
    write_set(tmp_path / "set", np.uint16, 8)
    runs, data = tmp_path / "runs", f"data=folder data.root={tmp_path / 'set'}"
    given = f"{data} data.bands=[3,2,1,8] data.display=[8] data.range=percentile evaluation.every=3"
    rest = f"schedule.iterations=3 schedule.batch_size=2 run_dir={runs} run_name=deep"
    assert run_here("train_seg", *given.split(), *TINY.split(), *rest.split()) == 0
    printed = capsys.readouterr().out
    assert "percentiles 0.5 and 99.5 of 2 images" in printed
    assert "model.mean=[" in printed
    content = torch.load(runs / "deep" / "best.pt", weights_only=True)
    dataset = folder.build("train", root=str(tmp_path / "set"), bands=(3, 2, 1, 8), range="percentile")
    limits = statistics.compute_band_statistics(dataset).value_ranges(dataset.bands)
    np.testing.assert_allclose(content["settings"]["data"]["range"], limits)
    assert content["model"]["backbone.conv1.0.weight"].shape[1] == 4

    image = tmp_path / "set/images/val/c.tif"
    network = segkit.load(runs / "deep" / "best.pt")
    ids = network.predict(image)
    array = tifffile.imread(image)[..., [2, 1, 0, 7]]
    np.testing.assert_array_equal(network.predict(array), ids)
    logits = network.network.eval()(network.network.normalize(torch.from_numpy(array).permute(2, 0, 1)[None]))
    np.testing.assert_array_equal(logits.main[0].argmax(0), ids)
    best = f"checkpoint={runs}/deep/best.pt"
    assert run_here("predict_seg", best, f"input={image}", "save=[ids,overlays]") == 0
    stored = cv2.imread(str(runs / "deep/predict-c/ids/c.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, ids)
    assert (runs / "deep/predict-c/overlays/c.jpg").is_file()
    scores = []
    for other in ([], [*data.split(), f"output={tmp_path / 'other'}"]):
        capsys.readouterr()
        assert run_here("test_seg", best, "report=true", "loader.workers=0", "save=[overlays]", *other) == 0
        scores.append(capsys.readouterr().out.split("in %:")[1].split("\n")[0])
    assert scores[0] == scores[1]


@pytest.mark.medium
def test_geotiff_prediction_keeps_the_georeference(tmp_path, run_here):
    write_set(tmp_path / "set", np.uint8, 3, names=("train/a", "val/c"))
    runs, place = tmp_path / "runs", tmp_path / "place.tif"
    given = f"data=folder data.root={tmp_path / 'set'} run_dir={runs} run_name=a schedule.iterations=1"
    assert not run_here("train_seg", *given.split(), *TINY.split(), "schedule.batch_size=2")
    image = noise(np.uint8, 3)
    with rasterio.open(place, "w", **profile_of(image, "GTiff", crs="EPSG:32633")) as file:
        file.write(np.moveaxis(image, -1, 0))
    where = f"checkpoint={runs}/a/best.pt input={place} output={tmp_path / 'out'}"
    assert not run_here("predict_seg", *where.split(), "save=[ids]")
    with rasterio.open(tmp_path / "out/ids/place.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, PLACE)
        stored = cv2.imread(str(tmp_path / "out/ids/place.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(file.read(1), stored)


@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_geotiff_with_internal_mask_is_read_or_refused(tmp_path, count, hidden):
    """A mask that hides no pixel changes nothing; the colors below hidden pixels mean nothing."""
    file, shape = tmp_path / "masked.tif", MANY.shape[:2]
    mask = np.full(shape, 255, np.uint8)
    mask[: 2 * hidden] = 0
    colors = MANY[..., :count]
    profile = profile_of(colors, "GTiff")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "w", **profile) as opened:
        opened.write(colors.transpose(2, 0, 1))
        opened.write_mask(mask)
    numbers = tuple(range(1, count + 1))
    if hidden:
        listed = ",".join(map(str, numbers))
        with pytest.raises(DataError, match=rf"transparent pixels.*data\.bands=\[{listed}\]"):
            read_image(file)
    else:
        np.testing.assert_array_equal(read_image(file), np.broadcast_to(colors, (*shape, 3)))
    np.testing.assert_array_equal(read_image(file, Bands(numbers)), colors)
