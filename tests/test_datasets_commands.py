"""The scripts in datasets/: as a user runs them, on small copies of the official layouts."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, run_command, run_script, write_image
from segkit.data import statistics, verify
from segkit.data.datasets import camvid, folder

sys.path.insert(0, str(ROOT / "datasets"))
import ade20k as ade20k_script
import cityscapes as cityscapes_script
import command

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def camvid_like(root, names=("a", "b", "c"), splits=("train", "val")):
    for split in splits:
        for name in names:
            write_image(root / f"images/{split}/{name}.png", NOISE)
            write_image(root / f"annotations/{split}/{name}.png", (NOISE[..., 0] % 12).astype(np.uint8))
    return root


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-200])


FAULTS = {  # what is done to a data set, or the content of one of its masks
    "missing partner": lambda root: (root / "annotations/train/a.png").unlink(),
    "unreadable or truncated": lambda root: cut_short(root / "images/train/a.png"),
    "zero bytes": lambda root: (root / "annotations/train/a.png").write_bytes(b""),
    "duplicate stems": lambda root: write_image(root / "images/train/a.bmp", NOISE),
    "sizes differ": np.zeros((5, 5), np.uint8),
    "values outside the table": np.full((24, 32), 77, np.uint8),
    "three color channels": NOISE,
    "16-bit": np.zeros((24, 32), np.uint16),
    "a palette PNG": lambda root: Image.fromarray(NOISE).convert("P").save(root / "annotations/train/a.png"),
    "all ignored": np.full((24, 32), 11, np.uint8),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_verify_finds_each_kind_of_problem(tmp_path, kind):
    root = camvid_like(tmp_path)
    assert verify.verify_dataset(camvid.build("train", root=str(root))) == []
    if callable(FAULTS[kind]):
        FAULTS[kind](root)
    else:
        write_image(root / "annotations/train/a.png", FAULTS[kind])
    problems = verify.verify_dataset(camvid.build("train", root=str(root), on_error="skip"))
    assert [problem.kind for problem in problems] == [kind]
    assert Path(problems[0].file).stem == "a"


@pytest.mark.medium
def test_verify_reports_all_problems_with_status_one(tmp_path):
    root = camvid_like(tmp_path, names=("a", "b"))
    cut_short(root / "images/train/a.png")
    write_image(root / "annotations/val/b.png", np.full((24, 32), 77, np.uint8))
    text = run_command("datasets/camvid.py", "verify", "--root", root, status=1).stdout
    assert "77 (768 pixels) not in the class table of camvid" in text
    assert "camvid.py verify" not in text
    assert "warning: 2 of 2 validation images are also trained on" in text
    assert "4 pairs read, 4 problems" in text  # with the number of each official split
    text = run_script("camvid", "verify", "--root", root, "--json", status=1)
    found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    kinds = {"wrong number of files": 2, "unreadable or truncated": 1, "values outside the table": 1}
    assert found["counts"] == kinds
    assert "77 (768 pixels)" in str(found["problems"])
    assert "2 of 2 validation images" in found["warnings"][0]


@pytest.mark.medium
def test_wrong_setting_or_option_is_refused():
    assert "rooot" in run_script("camvid", "verify", "data.rooot=x", status=2)
    assert "unrecognized arguments: nonsense" in run_script("camvid", "verify", "nonsense", status=2)


@pytest.mark.medium
def test_help_has_license_source_and_layout():
    for name in ("ade20k", "cityscapes", "camvid", "voc"):
        text = run_script(name, "--help")
        assert all(word in text for word in ("License:", "Source:", "Layout below --root", "prepare"))


def test_statistics_match_a_count_by_hand(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "classes.csv").write_text("id,name,ignore\n0,a,\n1,b,\n2,c,\n9,none,yes\n")
    masks = [np.array([[0, 0, 0, 1], [0, 0, 0, 9]]), np.array([[0, 0, 0, 0], [0, 0, 0, 0]])]
    for index, mask in enumerate(masks):
        write_image(tmp_path / f"images/{index}.png", np.full((2, 4, 3), (255 * index, 0, 102), np.uint8))
        write_image(tmp_path / f"masks/{index}.png", mask.astype(np.uint8))
    found = statistics.compute_statistics(folder.build("train", root=str(tmp_path), train_split="100%"))
    assert found.pixels.tolist() == [14, 1, 0]
    assert found.images.tolist() == [2, 1, 0]
    assert found.ignored == 1
    mean, std = found.bands.normalization([(0, 255)] * 3)
    np.testing.assert_allclose(mean, [0.5, 0, 0.4])
    np.testing.assert_allclose(std, [0.5, 0, 0], atol=1e-6)
    # frequencies 14/15 and 1/7, their median the mean of both; class c never occurs
    median = (14 / 15 + 1 / 7) / 2
    np.testing.assert_allclose(statistics.median_frequency_weights(found), [median * 15 / 14, median * 7, 1])
    # effective numbers (1 - 0.5^2) / 0.5 and 1; weights 1/1.5 and 1, scaled to mean 1
    np.testing.assert_allclose(statistics.effective_number(found, beta=0.5), [0.8, 1.2, 1])


@pytest.mark.medium
def test_show_writes_a_contact_sheet_of_named_samples(tmp_path):
    root = camvid_like(tmp_path)
    sheet = tmp_path / "sheet.png"
    run_script("camvid", "show", "--root", root, "--samples", "b", "c", "--output", sheet, "augment=mmseg")
    assert cv2.imread(str(sheet)).shape[0] > 2 * 200
    assert "unknown nobody" in run_script("camvid", "show", "--root", root, "--samples", "nobody", status=2)


@pytest.mark.medium
def test_show_draws_samples_without_a_scored_pixel(tmp_path):
    write_image(tmp_path / "images/a.png", np.zeros((16, 16, 3), np.uint8))
    write_image(tmp_path / "masks/a.png", np.full((16, 16), 65535, np.uint16))
    rows = [f"{k},class {k}," for k in range(300)]
    (tmp_path / "classes.csv").write_text("\n".join(["id,name,ignore", *rows, "65535,void,yes"]))
    sheet = tmp_path / "sheet.png"
    same = ["data.train_split=.", "data.val_split=.", "sizes.base=16", "sizes.crop=16"]
    run_script("folder", "show", "--root", tmp_path, "--output", sheet, "augment=none", *same)
    assert cv2.imread(str(sheet)).shape[0] > 200


def ade_zip(file, splits=("training", "validation"), extra=()):
    with zipfile.ZipFile(file, "w") as archive:
        for split in splits:
            for name in ("x", "y"):
                archive.writestr(f"ADEChallengeData2016/images/{split}/{name}.jpg", b"image")
                archive.writestr(f"ADEChallengeData2016/annotations/{split}/{name}.png", b"mask")
        archive.writestr("ADEChallengeData2016/sceneCategories.txt", "not needed")
        for name in extra:
            archive.writestr(name, b"bad")
    return file


def test_prepare_of_a_complete_folder_needs_no_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(ade20k_script, "OFFICIAL", {"training": 2, "validation": 2})
    for words in (["--zip", str(ade_zip(tmp_path / "ade.zip"))], []):
        arguments = ade20k_script.script.parser.parse_args(["prepare", *words])
        ade20k_script.prepare(arguments, tmp_path / "ade")
        monkeypatch.setattr(ade20k_script.download, "fetch", None)  # would fail if it were called
    assert len([file for file in (tmp_path / "ade").rglob("*") if file.is_file()]) == 8


def test_interrupted_unpacking_continues(tmp_path):
    archive, root = ade_zip(tmp_path / "ade.zip"), tmp_path / "ade"
    assert command.unpack(archive, root, ade20k_script.map_member) == 8
    (root / "images/training/x.jpg").unlink()
    (root / "images/training/y.jpg").write_bytes(b"im")  # cut short
    assert command.unpack(archive, root, ade20k_script.map_member) == 2
    assert (root / "images/training/y.jpg").read_bytes() == b"image"


@pytest.mark.parametrize(
    "name", ["images/../../evil.jpg", "ADEChallengeData2016/images/../../../evil.jpg", "/images/x.jpg"]
)
def test_archive_members_cannot_leave_the_folder(tmp_path, name):
    archive = ade_zip(tmp_path / "ade.zip", extra=[name])
    with pytest.raises(ValueError, match=r"would leave .*; this is not the official archive"):
        command.unpack(archive, tmp_path / "deep/ade", lambda member: member)
    assert not list(tmp_path.rglob("evil*"))


def test_link_in_an_archive_becomes_no_link(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("images/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/link").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "images", "images")
    for file in ("a.zip", "a.tar"):
        command.unpack(tmp_path / file, tmp_path / "out", lambda member: member)
        assert not (tmp_path / "out/images/link").is_symlink()


@pytest.mark.parametrize("kept", [300, 20])
def test_damaged_archive_is_refused_with_a_fix(tmp_path, kept):
    archive = ade_zip(tmp_path / "ade.zip")
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"ade.zip: .*Download it again, then run `prepare` again"):
        command.unpack(archive, tmp_path / "out", ade20k_script.map_member)


@pytest.mark.medium
def test_cityscapes_prepare_unpacks_needed_files_only(tmp_path):
    frames, labels = tmp_path / "leftImg8bit.zip", tmp_path / "gtFine.zip"
    with zipfile.ZipFile(frames, "w") as archive:
        archive.writestr("README", b"x")
        for place in ("train/ulm/ulm", "test/bonn/b"):
            archive.writestr(f"leftImg8bit/{place}_0_leftImg8bit.png", b"x")
    with zipfile.ZipFile(labels, "w") as archive:
        for end in ("labelIds.png", "color.png", "instanceIds.png", "polygons.json"):
            archive.writestr(f"gtFine/train/ulm/ulm_0_gtFine_{end}", b"x")
    root = tmp_path / "cityscapes"
    run_script("cityscapes", "prepare", "--root", root, "--zips", frames, labels)
    files = sorted(f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
    assert files == [
        "gtFine/train/ulm/ulm_0_gtFine_labelIds.png",
        "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png",
    ]
    shutil.rmtree(root)
    with pytest.raises(ValueError, match=r"Download leftImg8bit_trainvaltest.zip .*prepare --root"):
        cityscapes_script.prepare(cityscapes_script.script.parser.parse_args(["prepare"]), root)


@pytest.mark.medium
def test_camvid_prepare_arranges_the_tutorial_layout(tmp_path):
    for split in ("train", "val"):
        write_image(tmp_path / f"tutorial/CamVid/{split}/a.png", NOISE)
        write_image(tmp_path / f"tutorial/CamVid/{split}annot/a.png", (NOISE[..., 0] % 12).astype(np.uint8))
    run_script("camvid", "prepare", "--root", tmp_path / "camvid", "--source", tmp_path / "tutorial")
    assert camvid.build("val", root=str(tmp_path / "camvid")).read(0).label.shape == (24, 32)
