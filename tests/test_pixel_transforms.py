"""``augment.albumentations``: pixel-level transforms by name; tests/test_loaders.py has their seeds."""

from __future__ import annotations

import warnings
from importlib import metadata

import albumentations
import numpy as np
import pytest

from runs import Run
from segkit.data import pixel_transforms, transforms
from segkit.data.pixel_transforms import PixelTransforms
from segkit.types import PHOTOGRAPHS, Bands

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)


def test_transform_by_name_equals_albumentations():
    ours = PixelTransforms([{"name": "CLAHE", "p": 1, "clip_limit": [2, 2]}])
    theirs = albumentations.CLAHE(p=1, clip_limit=(2, 2))(image=IMAGE)["image"]
    np.testing.assert_array_equal(ours(IMAGE, np.random.default_rng(0), PHOTOGRAPHS), theirs)


def test_every_pixel_transform_is_applied_to_rgb_or_refused():
    applied = 0
    for name in pixel_transforms._pixel_transforms():
        try:
            chain = PixelTransforms([{"name": name, "p": 1}])
        except ValueError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ToRGB warns that an image is RGB already
            image = chain(IMAGE, np.random.default_rng(0), PHOTOGRAPHS)
        assert (image.shape, image.dtype) == (IMAGE.shape, IMAGE.dtype)
        applied += 1
    assert applied > 50


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"p": 0.5}, r"None is no pixel-level transform.* An entry is, for example, \{name: CLAHE"),
        ({"name": "Clahe"}, r"Clahe is no pixel-level transform; did you mean CLAHE"),
        ({"name": "HorizontalFlip"}, "HorizontalFlip is no pixel-level transform.* without its mask"),
        ({"name": "CLAHE", "limit": 3}, r"CLAHE cannot be used: Argument.*'limit' .* not valid"),
        ({"name": "CLAHE", "p": 3}, r"CLAHE cannot be used: .* p .*less than or equal to 1"),
        ({"name": "Normalize"}, "Normalize cannot be used: it changes the type or number of bands"),
    ],
)
def test_unusable_entry_is_refused_before_training(entry, message):
    with pytest.raises(ValueError, match=f"augment.albumentations.*{message}") as error:
        transforms.build(crop_size=8, albumentations=[entry])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "count", "value_range", "message"),
    [
        (np.uint8, 4, None, r"CLAHE cannot be applied to images of 4 bands \(uint8\)"),
        (np.uint16, 3, (0, 4095), r"\(uint16\): it takes 8-bit images"),
        (np.float32, 3, (0, 255), r"\(float32\): it takes 8-bit images"),
    ],
)
def test_images_a_transform_cannot_take_are_refused(kind, count, value_range, message):
    chain = PixelTransforms([{"name": "CLAHE", "p": 1}])
    image = np.ones((48, 48, count), kind)
    bands = Bands(tuple(range(1, count + 1)), value_range)
    with pytest.raises(ValueError, match=message):
        chain(image, np.random.default_rng(0), bands)


def test_float_images_of_unit_range_and_many_bands_are_taken():
    chain = PixelTransforms([{"name": "GaussNoise", "p": 1}])
    image = np.random.default_rng(0).random((48, 48, 5), dtype=np.float32)
    changed = chain(image, np.random.default_rng(0), Bands((1, 2, 3, 4, 5), (0.0, 1.0)))
    assert (changed.shape, changed.dtype) == (image.shape, np.float32)
    assert (changed != image).any()


def test_albumentationsx_is_named_with_its_license(monkeypatch, caplog):
    monkeypatch.setattr(metadata, "version", lambda name: {"albumentationsx": "2.3.1"}[name])
    PixelTransforms([{"name": "CLAHE"}])
    assert "uses albumentationsx 2.3.1, whose license is AGPL-3.0" in caplog.text


@pytest.mark.medium
def test_training_runs_with_clahe(tmp_path):
    settings = ["schedule.iterations=2", "evaluation.every=2", "loader.workers=1"]
    Run(tmp_path / "run", *settings, "augment.albumentations=[{name: CLAHE, p: 0.5}]").complete()
