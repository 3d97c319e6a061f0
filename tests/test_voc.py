"""Pascal VOC: the official layout, the augmented list, submissions and `prepare`."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from segkit.data.datasets import voc
from segkit.data.label_map import load_builtin_label_map
from segkit.evaluation import submissions

sys.path.insert(0, str(Path(__file__).parent.parent / "datasets"))
import voc as voc_script

LISTS = {"train": ["2007_a", "2007_b"], "val": ["2007_c", "2007_d"]}
LISTS["trainval"] = LISTS["train"] + LISTS["val"]


def colormap():
    """Return the palette of VOCcode/VOClabelcolormap.m, (256, 3)."""
    colors = np.zeros((256, 3), np.uint8)
    for label in range(256):
        rest = label
        for shift in range(8):
            for channel in range(3):
                colors[label, channel] |= ((rest >> channel) & 1) << (7 - shift)
            rest >>= 3
    return colors


def save_palette(file, ids):
    mask = Image.fromarray(ids)
    mask.putpalette(colormap().tobytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    mask.save(file)


def draw_mask(seed):
    """Return rectangles of the classes 0..20 with a border of 255, (36, 48)."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((36, 48), np.uint8)
    for label in draw.permutation(21):
        top, left = draw.integers(0, 28), draw.integers(0, 38)
        mask[top : top + 8, left : left + 10] = 255
        mask[top + 1 : top + 7, left + 1 : left + 9] = label
    return mask


@pytest.fixture
def root(tmp_path):
    """Return a folder in the official layout, two images a split and one image without mask."""
    root = tmp_path / "VOCdevkit/VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (36, 48, 3)).astype(np.uint8)
    for seed, name in enumerate([*LISTS["trainval"], "2011_e"]):
        Image.fromarray(image).save(root / f"JPEGImages/{name}.jpg")
        if name != "2011_e":
            save_palette(root / f"SegmentationClass/{name}.png", draw_mask(seed))
    for part, names in LISTS.items():
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture
def sbd(tmp_path):
    """Return a folder like that of SBD: one image that VOC validates on, one that it trains on, a new one."""
    folder = tmp_path / "benchmark_RELEASE/dataset/cls"
    folder.mkdir(parents=True)
    for name in ("2007_a", "2007_c", "2011_e"):
        content = {"Segmentation": np.full((36, 48), 15, np.uint8), "Boundaries": np.zeros((1, 1))}
        scipy.io.savemat(folder / f"{name}.mat", {"GTcls": content})
    return tmp_path / "benchmark_RELEASE"


def test_voc_table_has_official_names_and_colors():
    table = load_builtin_label_map("voc")
    assert (table.num_classes, table.names[0], table.names[15], table.names[20]) == (
        21,
        "background",
        "person",
        "tvmonitor",
    )
    assert (table.colors == colormap()[:21]).all()
    assert table.entries[-1].color == (224, 224, 192)
    assert table.encode(np.array([[0, 20, 255]], np.uint8), "m").tolist() == [[0, 20, 255]]


def test_voc_lists_select_images_with_palette_labels(root):
    dataset = voc.build("val", root=str(root))
    assert dataset.names == LISTS["val"]
    for index, seed in enumerate((2, 3)):
        assert (dataset.read(index).label == draw_mask(seed)).all()
    assert len(voc.build("train", root=str(root), train_split="trainval")) == 4


@pytest.mark.parametrize("is_archive", [False, True])
def test_voc_trainaug_prefers_official_masks(root, sbd, tmp_path, is_archive):
    if is_archive:
        with tarfile.open(tmp_path / "benchmark.tgz", "w:gz") as archive:
            archive.add(sbd, "benchmark_RELEASE")
        sbd = tmp_path / "benchmark.tgz"
    voc_script.add_sbd(sbd, root)
    dataset = voc.build("train", root=str(root), train_split="trainaug")
    assert dataset.names == ["2007_a", "2007_b", "2011_e"]  # without 2007_c, which is validated on
    assert (dataset.read(0).label == draw_mask(0)).all()
    assert (dataset.read(2).label == 15).all()
    assert [file.name for file in (root / "SegmentationClassAug").iterdir()] == ["2011_e.png"]


def test_voc_missing_list_or_file_is_named(root):
    with pytest.raises(ValueError, match=r"data.train_split=trainaug: .*trainaug.txt.*prepare` with --sbd"):
        voc.build("train", root=str(root), train_split="trainaug")
    with pytest.raises(ValueError, match=r"no folder JPEGImages .*prepare` downloads VOC 2012"):
        voc.build("train", root=str(root / "JPEGImages"))
    (root / "SegmentationClass/2007_a.png").unlink()
    with pytest.raises(ValueError, match=r"SegmentationClass/2007_a.png is missing.*verify --root"):
        voc.build("train", root=str(root))
    assert voc.build("train", root=str(root), on_error="skip").names == ["2007_b"]


def prepare(root, *arguments):
    parsed = voc_script.script.parser.parse_args(["prepare", *map(str, arguments)])
    voc_script.prepare(parsed, root)


def test_voc_prepare_unpacks_needed_files_and_continues(root, tmp_path):
    (root / "Annotations").mkdir()
    (root / "Annotations/2007_a.xml").write_text("not needed")
    with tarfile.open(tmp_path / "voc.tar", "w") as archive:
        archive.add(root.parent, "VOCdevkit")
    new = tmp_path / "new"
    prepare(new, "--archive", tmp_path / "voc.tar")
    files = {file.relative_to(new) for file in new.rglob("*") if file.is_file()}
    assert files == {
        file.relative_to(root) for file in root.rglob("*") if file.is_file() and file.suffix != ".xml"
    }
    damaged, kept = new / "JPEGImages/2007_a.jpg", new / "JPEGImages/2007_b.jpg"
    damaged.write_bytes(b"cut")
    kept.touch()
    touched = kept.stat().st_mtime_ns
    prepare(new, "--archive", tmp_path / "voc.tar")
    assert damaged.read_bytes() == (root / "JPEGImages/2007_a.jpg").read_bytes()
    assert kept.stat().st_mtime_ns == touched  # not written again


def test_voc_prepare_without_network_says_where_the_file_goes(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    with pytest.raises(ValueError, match=r"no network. Fetch it .*MD5 6cd6e144.*VOCtrainval_11-May-2012.tar"):
        prepare(tmp_path / "VOC2012")


def test_voc_submission_has_official_layout_and_palette(tmp_path):
    table = load_builtin_label_map("voc")
    (tmp_path / "ids").mkdir()
    ids = np.arange(21, dtype=np.uint8).reshape(3, 7)
    Image.fromarray(ids).save(tmp_path / "ids/2008_000006.png")
    path = submissions.pack_archive(tmp_path, ["2008_000006"], table)
    assert path.name == "submission.tgz"
    with tarfile.open(path) as archive:
        (name,) = (member.name for member in archive if member.isfile())
        assert name == "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"
        with Image.open(archive.extractfile(name)) as mask:
            assert mask.mode == "P"
            assert (np.array(mask) == ids).all()
            assert (np.array(mask.convert("RGB")) == colormap()[ids]).all()
    Image.fromarray(ids + 1).save(tmp_path / "ids/2008_000006.png")
    with pytest.raises(ValueError, match=r"2008_000006.png contains \[21\], which are not classes of voc"):
        submissions.pack_archive(tmp_path, ["2008_000006"], table)
