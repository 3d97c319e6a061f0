"""Submission archives: names, values, sizes and rejected masks."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from segkit.data.label_map import load_builtin_label_map
from segkit.evaluation import results, submissions
from segkit.types import Sample
from segkit.visualize import overlays


def keep(folder, data, ids, names):
    keeper = results.make_image_callback(folder, load_builtin_label_map(data), kinds={"ids"})
    for name, mask in zip(names, ids, strict=True):
        keeper(Sample(np.zeros((*mask.shape, 3), np.uint8), mask, name), mask)


def test_ade20k_archive_has_values_1_to_150(tmp_path):
    names = ["ADE_test_00000001", "ADE_test_00000002"]
    ids = [np.arange(150, dtype=np.uint8).reshape(10, 15), np.full((7, 5), 149, np.uint8)]
    keep(tmp_path, "ade20k", ids, names)
    with zipfile.ZipFile(
        submissions.pack_archive(tmp_path, names, load_builtin_label_map("ade20k"))
    ) as archive:
        assert sorted(archive.namelist()) == [f"{name}.png" for name in names]
        for name, mask in zip(sorted(archive.namelist()), ids, strict=True):
            with Image.open(io.BytesIO(archive.read(name))) as stored:
                assert stored.mode == "L"
                assert np.array_equal(np.array(stored), mask + 1)


def test_cityscapes_archive_is_found_by_its_scripts(tmp_path, monkeypatch):
    scripts = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    names = ["berlin/berlin_000000_000019_leftImg8bit", "berlin_000001_000019"]  # as predicted, as tested
    train_ids = np.repeat(np.arange(19, dtype=np.uint8), 2048 * 1024 // 19 + 1)[: 2048 * 1024].reshape(
        1024, 2048
    )
    keep(tmp_path, "cityscapes", [train_ids, train_ids[::-1]], names)
    with zipfile.ZipFile(
        submissions.pack_archive(tmp_path, names, load_builtin_label_map("cityscapes"))
    ) as archive:
        archive.extractall(tmp_path / "unpacked")
    monkeypatch.setattr(scripts.args, "predictionPath", str(tmp_path / "unpacked"))
    monkeypatch.setattr(scripts.args, "predictionWalk", None)
    found = scripts.getPrediction(scripts.args, "gt/berlin_000000_000019_gtFine_labelIds.png")
    own_ids = np.array([labels.trainId2label[k].id for k in range(19)])
    with Image.open(found) as stored:
        assert np.array_equal(np.array(stored), own_ids[train_ids])


@pytest.mark.parametrize(
    ("data", "mask", "message"),
    [
        ("ade20k", np.zeros((4, 4), np.uint8), r"a\.png contains \[0\], which are not classes of ade20k"),
        ("ade20k", np.full((4, 4), 151, np.uint8), r"a\.png contains \[151\]"),
        ("ade20k", np.ones((4, 4, 3), np.uint8), r"a\.png is not a gray 8-bit PNG"),
        ("ade20k", None, r"a\.png is missing or damaged"),
        ("cityscapes", np.full((4, 6), 7, np.uint8), "is 6x4; the server of cityscapes requires 2048x1024"),
    ],
)
def test_invalid_masks_make_no_archive(tmp_path, data, mask, message):
    (tmp_path / "ids").mkdir()
    if mask is not None:
        overlays.save_image(tmp_path / "ids/a.png", mask)
    with pytest.raises(ValueError, match=message):
        submissions.pack_archive(tmp_path, ["a"], load_builtin_label_map(data))
    assert [file.name for file in tmp_path.iterdir()] == ["ids"]


def test_images_of_equal_names_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="2 images are called a: the server needs unique file names"):
        submissions.pack_archive(tmp_path, ["x/a", "y/a"], load_builtin_label_map("ade20k"))
