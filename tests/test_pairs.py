"""Reading image and mask files, against Pillow; every way a file can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_image
from runs import processes
from segkit.data import pairs
from segkit.data.datasets import ade20k, camvid, cityscapes
from segkit.data.label_map import load_builtin_label_map

SCENE = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
LABEL = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(16, 0).repeat(16, 1)


def camvid_of(root: Path, name="a", image=SCENE, mask=LABEL, **build):
    for folder, array in (("images", image), ("annotations", mask)):
        write_image(root / f"{folder}/train/{name}.png", array)
    return camvid.build("train", root=str(root), **build)


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="the file is empty; replace it with an intact copy"):
        pairs.read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"b.png: No such file.*is data.root complete"):
        pairs.read_image(tmp_path / "b.png")


def test_different_sizes_of_image_and_mask_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.png: the mask is 64x40, its image 64x48 .*camvid.py verify"):
        camvid_of(tmp_path, mask=LABEL[:40]).read(0)


def test_missing_root_error_names_folders_and_prepare(tmp_path):
    for dataset, folder in (
        (ade20k, "images/training"),
        (camvid, "images/train"),
        (cityscapes, "gtFine/train"),
    ):
        name = dataset.__name__.rpartition(".")[2]
        with pytest.raises(ValueError, match=rf"no folder .*{folder}.*`python datasets/{name}.py prepare`"):
            dataset.build("train", root=str(tmp_path))


def test_file_without_partner_stops_or_is_skipped(tmp_path, caplog):
    camvid_of(tmp_path)
    (tmp_path / "images/train/alone.png").touch()
    with pytest.raises(
        ValueError, match=r"1 file of camvid cannot be used, .*alone.png: there is no mask alone\. List all"
    ):
        camvid.build("train", root=str(tmp_path))
    assert camvid.build("train", root=str(tmp_path), on_error="skip").names == ["a"]
    assert "data.on_error=skip: 1 file of camvid" in caplog.text


def test_split_without_pairs_is_refused(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "annotations/train").mkdir(parents=True)
    with pytest.raises(ValueError, match="camvid: no image/mask pairs found"):
        camvid.build("train", root=str(tmp_path))


def test_cityscapes_label_ids_are_paired_and_mapped(tmp_path):
    for part, end in (
        ("leftImg8bit", "leftImg8bit"),
        ("gtFine", "gtFine_labelIds"),
        ("gtFine", "gtFine_color"),
    ):
        file = tmp_path / f"{part}/val/ulm/ulm_000000_000019_{end}.png"
        write_image(file, np.full((4, 8), 26, np.uint8))
    sample = cityscapes.build("val", root=str(tmp_path)).read(0)
    assert (sample.name, set(sample.label.ravel().tolist())) == ("ulm/ulm_000000_000019", {13})  # 26, 13: car


def test_disk_cache_is_renewed_when_the_source_changes(tmp_path):
    plain, cached = camvid_of(tmp_path), camvid_of(tmp_path, cache="disk")
    for _ in range(2):
        sample = cached.read(0)
        for ours, theirs in zip(sample, plain.read(0), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        sample.image[:] = 0  # does not change the cache
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    file = tmp_path / "images/train/a.png"
    Image.fromarray(255 - SCENE).save(file)
    os.utime(file, ns=(1, 1))
    np.testing.assert_array_equal(cached.read(0).image, 255 - SCENE)
    assert len(list(tmp_path.rglob("*.npy"))) == 2  # the stale copy is gone
    assert camvid.build("train", root=str(tmp_path), cache="disk").names == ["a"]


@pytest.mark.medium
def test_processes_can_share_one_cache(tmp_path):
    camvid_of(tmp_path)
    with processes.Pool(3) as pool:
        sums = pool.map(_cached_sum, [str(tmp_path)] * 12)
    assert set(sums) == {int(SCENE.sum())}
    cached = [file for file in (tmp_path / ".segkit-cache").rglob("*") if file.is_file()]
    assert {file.suffix for file in cached} == {".npy"}


def _cached_sum(root):
    return int(camvid.build("train", root=root, cache="disk").read(0).image.sum())


def test_cache_key_of_masks_includes_the_label_map(tmp_path):
    cached = camvid_of(tmp_path, cache="disk")
    cached.read(0)
    cached.table = load_builtin_label_map("cityscapes")
    assert cached.read(0).label.max() == 255
    assert len(list(tmp_path.rglob("*.npy"))) == 3


@pytest.mark.parametrize("is_full", [False, True])
def test_unwritable_cache_is_skipped_with_one_warning(tmp_path, caplog, monkeypatch, is_full):
    def fail(_):
        raise OSError(28, "No space left on device")

    if is_full:
        monkeypatch.setattr(pairs.files, "atomic_write", fail)
    else:
        (tmp_path / ".segkit-cache").write_text("a file where the folder would be")
    dataset = camvid_of(tmp_path, cache="disk")
    for _ in range(2):
        np.testing.assert_array_equal(dataset.read(0).image, SCENE)
    assert caplog.text.count("data.cache=disk: cannot write to") == 1
