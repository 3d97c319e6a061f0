"""The doctor of data sets, on scenes with planted mistakes."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from conftest import run_command, run_script
from planted import CLASSES, SCENES, examine, find, is_serious, kinds, make, write_pair
from segkit.data.datasets import folder
from segkit.data.label_map import Entry, LabelMap
from segkit.tools.doctor import agreement, classes, copies


def test_sound_data_set_has_only_findings_about_its_size(tmp_path):
    found = examine(make(tmp_path))
    assert kinds(found) <= {"rare classes"}
    assert not is_serious(found)


CHANGES = {
    "same file": lambda image: image,
    "recompressed": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 50])[1], cv2.IMREAD_COLOR),
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1, beta=4),
}


def test_all_planted_copies_are_found_and_nothing_else(tmp_path):
    root, expected = make(tmp_path, train=24), {"train": set(), "val": set()}
    for number, (title, change) in enumerate(CHANGES.items()):
        for split, index in (("train", number), ("val", number + 8)):
            source = SCENES["train"].read(index)
            image = change(source.image)
            label = cv2.resize(source.label, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            if title == "mirrored":
                label = label[:, ::-1]
            write_pair(root, split, f"copy {title}", image, label)
            expected[split].add(frozenset({f"train{index}x", f"copy {title}"}))
    found = examine(root)
    assert set(map(frozenset, find(found, "copies in one split")[1])) == expected["train"]
    assert set(map(frozenset, find(found, "copies in both splits")[1])) == expected["val"]
    assert is_serious(found)
    listed = [line for line in (root / "out/exclude.txt").read_text().splitlines() if line[0] != "#"]
    assert len(listed) == len(set(listed)) == 12
    left = folder.build("train", root=str(root), exclude=str(root / "out/exclude.txt"))
    assert len(left) == 30 - 12
    again = examine(root, exclude=str(root / "out/exclude.txt"))
    assert not {"copies in one split", "copies in both splits"} & kinds(again)


def test_equal_images_with_other_masks_are_reported(tmp_path):
    root, sample = make(tmp_path), SCENES["train"].read(3)
    write_pair(root, "train", "again", sample.image, np.where(sample.label == 0, 1, sample.label))
    assert find(examine(root), "copies with different masks")[1] == [{"again", "train3x"}]


def drive(root, split_of):
    """Write the frames of a slowly moving camera, and scenes beside them."""
    draw = np.random.default_rng(5)
    street = cv2.resize(draw.integers(0, 256, (12, 60, 3)).astype(np.uint8), (1200, 120)).astype(int)
    street = (street + draw.integers(-40, 40, street.shape)).clip(0, 255).astype(np.uint8)
    labels = cv2.resize((np.arange(60) % 3).astype(np.uint8)[None], (1200, 120), interpolation=0)
    for number in range(40):
        at = slice(number, number + 160)
        write_pair(root, split_of(number), f"city/cam_{number:04d}", street[:, at], labels[:, at])


def test_frames_of_a_video_in_both_splits_are_one_leak(tmp_path):
    root = make(tmp_path)
    drive(root, lambda number: "val" if number % 5 == 2 else "train")
    found = examine(root)
    finding, (names,) = find(found, "sequences in both splits")
    assert finding.severity == "serious"
    assert all(name.startswith("city/cam_") for name in names)
    assert "city/cam_: 32 of train and 8 of val" in finding.cases[0].text


def test_video_with_a_gap_between_the_splits_is_a_warning(tmp_path):
    root = make(tmp_path)
    drive(root, lambda number: "train" if number < 8 else "val" if number > 13 else "left out")
    finding, cases = find(examine(root), "videos in both splits")
    assert (finding.severity, cases) == ("warning", [{"city/cam_0007", "city/cam_0014"}])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("shifted masks", lambda label: np.pad(label, ((0, 0), (12, 0)), constant_values=255)[:, :-12]),
        ("mirrored masks", lambda label: label[:, ::-1]),
        ("masks that do not fit", lambda _: SCENES["val"].read(77).label),
    ],
)
def test_masks_that_do_not_fit_their_image_are_found(tmp_path, kind, change):
    root, planted = make(tmp_path, train=40), {f"train{i}x" for i in range(0, 40, 10)}
    for index in range(0, 40, 10):
        sample = SCENES["train"].read(index)
        write_pair(root, "train", f"train{index}x", sample.image, change(sample.label))
    found = examine(root)
    misfits = ("shifted masks", "mirrored masks", "masks that do not fit")
    names = {name for title in misfits for case in find(found, title)[1] for name in case}
    assert planted <= names
    assert len(names - planted) <= 1
    assert find(found, kind)[0] is not None


def test_offset_of_a_shifted_mask_is_measured():
    for seed, (y, x) in enumerate(((0, 15), (-10, 0), (7, -9))):
        sample, move = SCENES["train"].read(seed), np.float32([[1, 0, x], [0, 1, y]])
        moved = cv2.warpAffine(sample.label, move, (160, 120), flags=0, borderValue=255)
        fit = agreement.measure_agreement(cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY), moved)
        assert np.abs(np.add(fit.offset, (y, x))).max() <= 2  # the mask must be moved back


def test_images_and_masks_unlike_the_rest_are_found(tmp_path):
    root, draw = make(tmp_path, train=40), np.random.default_rng(1)
    label = SCENES["train"].read(0).label
    noise = draw.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    write_pair(root, "train", "black", np.zeros_like(noise), label)
    write_pair(root, "train", "gray", np.repeat(noise[..., :1], 3, axis=2), label)
    write_pair(root, "train", "bright", 200 + noise // 5, label)
    write_pair(root, "train", "dark", noise // 16, label)
    write_pair(root, "val", "small", noise[:90], label[:90])
    write_pair(root, "val", "empty", noise[::-1], np.full_like(label, 255))
    found = examine(root)
    for kind, names in (
        ("plain images", ["black"]),
        ("unusual number of colors", ["gray"]),
        ("unusual size", ["small"]),
        ("images without labels", ["empty"]),
        ("unusual values", ["dark", "bright"]),
    ):
        assert [{name} in find(found, kind)[1] for name in names] == [True] * len(names)
    assert find(found, "repeated masks")[1] == [{"black", "gray", "bright", "dark", "train0x"}]


def test_absent_and_rare_classes_are_found(tmp_path):
    root = make(tmp_path)
    sample = SCENES["val"].read(50)
    label = np.where(np.arange(160) < 80, 10, np.zeros((120, 1), int)).astype(np.uint8)
    write_pair(root, "val", "cat", sample.image, label)
    write_pair(root, "train", "dog", SCENES["train"].read(60).image, label + 1)
    rows = "10,cat,#123456,\n11,dog,#654321,\n12,Cats,#123457,\n255,unsure,#000000,yes\n"
    (root / "classes.csv").write_text(CLASSES + rows)
    write_pair(root, "train", "ground", SCENES["train"].read(61).image, np.zeros_like(label))
    found = examine(root)
    texts = {f.kind: [case.text for case in f.cases] for f in found}
    assert texts["classes without training images"] == ["cat"]
    assert "dog" in texts["classes without validation images"]
    assert texts["classes without pixels"] == ["Cats"]
    assert any(text.startswith("dog: in 1 image,") for text in texts["rare classes"])
    assert texts["similar class names"] == ["cat and Cats"]
    assert texts["similar class colors"] == ["cat #123456 and Cats #123457"]
    assert is_serious(found)


def test_names_that_differ_by_number_are_not_similar():
    names = ["traffic light", "Traffic_Lights", "lane marking 1", "lane marking 2", "car", "cat"]
    table = LabelMap("x", tuple(Entry(k, name, (40 * k, 0, 255 - 40 * k)) for k, name in enumerate(names)))
    assert [case.text for case in classes.find_similar_classes(table)] == ["traffic light and Traffic_Lights"]


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_a_complete_search(seed):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(0, 1, (40, 255)).astype(np.float32)
    vectors[20:30] = vectors[:10] + draw.normal(0, draw.uniform(0.02, 0.3, (10, 1)), (10, 255))
    vectors[30:] = copies.mirror_descriptor(vectors[5:15])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    both = np.maximum(vectors @ vectors.T, copies.mirror_descriptor(vectors) @ vectors.T)
    expected = {(i, j) for i, j in np.argwhere(np.triu(both, 1) >= copies.NEAR).tolist()}
    assert {match[:2] for match in copies.find_matches(vectors)} == expected


@pytest.mark.medium
def test_command_writes_page_and_json_and_exits_with_1_if_serious(tmp_path):
    root = make(tmp_path / "data")
    words = ("doctor", "--root", root, "--output")
    sound = run_command("datasets/folder.py", *words, tmp_path / "sound").stdout
    assert "24 images examined; see" in sound
    evil = "<img src=x onerror=alert(1)>&"
    sample = SCENES["train"].read(0)
    write_pair(root, "val", evil, sample.image, sample.label)
    (root / "images/train/train1x.png").write_bytes(b"")
    bad = run_script("folder", *words, tmp_path / "bad", status=1)
    assert "serious: unusable files: 1. Repair" in bad
    assert "serious: copies in both splits: 1. Scores are too high" in bad
    content = json.loads((tmp_path / "bad/doctor.json").read_text())
    assert content["images"] == {"train": 16, "val": 9}
    leaked = next(f for f in content["findings"] if f["kind"] == "copies in both splits")
    assert {image["name"] for image in leaked["cases"][0]["images"]} == {"train0x", evil}
    page = (tmp_path / "bad/doctor.html").read_text()
    assert "train1x.png: the file is empty" in page
    assert evil not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.medium
def test_data_commands_do_not_import_torch():
    code = "import sys; sys.path.insert(0, 'datasets'); import command; print('torch' in sys.modules)"
    assert run_command("-c", code).stdout.strip() == "False"
