"""One's own data in all its forms, and the tutorial, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.datasets import folder

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
CLASSES = "id,name,colour,ignore\n0,ground,#000000,\n1,cat,#ff0000,\n9,unsure,#00ff00,yes\n"


def make(root, names, *, classes=CLASSES, masks="masks"):
    """Pictures of which each holds its number as a grey value, with masks of 0, 1 and 9."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    (root / "classes.csv").write_text(classes)
    for index, name in enumerate(names):
        for file, array in (
            (root / "images" / f"{name}.bmp", np.full((4, 6, 3), index, np.uint8)),
            (root / masks / f"{name}.png", np.array([[0, 1, 9, 0, 1, 9]] * 4, np.uint8)),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)
    return str(root)


def test_folders_make_splits(tmp_path):
    root = make(tmp_path, ["train/a", "train/deep er/ü", "val/b"])
    assert folder.build("train", root=root).names == ["a", "deep er/ü"]
    sample = folder.build("val", root=root).read(0)
    assert (sample.name, sample.image[0, 0, 0]) == ("b", 2)
    assert sample.label[0].tolist() == [0, 1, 255, 0, 1, 255]


@pytest.mark.parametrize(
    "text",
    [
        "a.bmp\nsub/b c.bmp\n",
        "a\nsub/b c\n",
        "# a comment\n\nimages/a.bmp,masks/a.png\nimages/sub/b c.bmp,masks/sub/b c.png\n",
        'image,mask\na.bmp,a.png\n"sub/b c.bmp","sub/b c.png"\n',
        "a.bmp\ta.png\nsub/b c.bmp\tsub/b c.png\n",
        "images/a.bmp masks/a.png\nimages/sub/b c.bmp masks/sub/b c.png\n",
        "\ufeffa.bmp\r\nsub/b c.bmp\r\n",
    ],
)
def test_lists_make_splits_in_their_order_and_every_usual_form(tmp_path, text):
    root = make(tmp_path, ["other", "a", "sub/b c"])
    (tmp_path / "list.txt").write_bytes(text.encode())
    dataset = folder.build("train", root=root, train_split="list.txt")
    assert dataset.names == ["a", "sub/b c"]
    assert [int(dataset.read(index).image[0, 0, 0]) for index in (0, 1)] == [1, 2]


def test_a_list_may_pair_names_that_differ(tmp_path):
    root = make(tmp_path, ["a", "b"])
    (tmp_path / "odd.csv").write_text("a.bmp,b.png\n")
    pair = folder.build("val", root=root, val_split="odd.csv").pairs[0]
    assert (pair.image.name, pair.label.name) == ("a.bmp", "b.png")


def test_shares_split_everything_without_overlap_and_by_seed(tmp_path):
    root = make(tmp_path, [f"{index:02d}" for index in range(20)])
    build = {"root": root, "train_split": "75%", "val_split": "25%"}
    train, val = (set(folder.build(split, **build).names) for split in ("train", "val"))
    assert (len(train), len(val), len(train | val)) == (15, 5, 20)
    assert set(folder.build("val", **build).names) == val
    assert set(folder.build("val", **build, seed=1).names) != val


@pytest.mark.parametrize(("number", "share"), [("0.8", "80%"), (".25", "25%"), ("0.575", "57.5%")])
def test_a_share_may_be_written_as_a_number(number, share, tmp_path):
    root = make(tmp_path, [f"{index:02d}" for index in range(20)])
    expected = folder.build("train", root=root, train_split=share).names
    assert folder.build("train", root=root, train_split=number).names == expected


def test_several_roots_stand_one_after_another(tmp_path):
    roots = [make(tmp_path / name, ["train/a"]) for name in ("one", "two")]
    dataset = folder.build("train", root=roots)
    assert dataset.names == ["one/a", "two/a"]
    assert len({pair.image for pair in dataset.pairs}) == 2


@pytest.mark.parametrize("form", ["colours", "palette", "16-bit"])
def test_masks_of_any_coding_give_the_same_classes(tmp_path, form):
    root = make(tmp_path, ["train/a"])
    plain = folder.build("train", root=root).read(0).label
    ids = np.array([[0, 1, 9, 0, 1, 9]] * 4, np.uint8)
    if form == "colours":
        colours = np.zeros((10, 3), np.uint8)
        colours[[1, 9]] = (255, 0, 0), (0, 255, 0)
        mask = Image.fromarray(colours[ids])
    else:
        mask = Image.fromarray(ids if form == "palette" else ids.astype(np.uint16))
    if form == "palette":
        mask = mask.convert("P")
        mask.putpalette([200, 100, 0] * 256)
    mask.save(tmp_path / "masks/train/a.png")
    np.testing.assert_array_equal(folder.build("train", root=root).read(0).label, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "nowhere"}, r"data.root=nowhere: there is no folder images and no masks .*own_data.md"),
        (
            {"train_split": "nothing"},
            r"no folder images/nothing .*data.train_split is a folder, a list .* or a share",
        ),
        ({"train_split": "missing.txt"}, r"there is no list .*missing.txt; it holds one image a line"),
        ({"train_split": "bad.txt"}, r"bad.txt: it names .*gone.bmp, which is not there"),
        ({"classes": "other.csv"}, r"there is no class table .*other.csv"),
    ],
)
def test_what_is_missing_is_named_with_what_is_accepted(tmp_path, change, message):
    root = make(tmp_path, ["train/a"])
    (tmp_path / "bad.txt").write_text("train/a.bmp\ngone.bmp\n")
    with pytest.raises(ValueError, match=message):
        folder.build("train", **({"root": root} | change))


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path):
    for name in ("conf", "segkit", "datasets", "train_seg.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = re.findall(r"```(python|sh)\n(.*?)```", TUTORIAL, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "sh", "sh"]
    outputs = []
    for kind, text in blocks:
        command = [sys.executable, "-c", text] if kind == "python" else ["sh", "-ec", text]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
        outputs.append(result.stdout + result.stderr)
    assert "12 pairs read, 0 problems" in outputs[1]
    assert (tmp_path / "my_data.png").stat().st_size > 10_000
    assert len((tmp_path / "my_data/weights.txt").read_text().split()) == 2
    assert (tmp_path / "runs/my_data/best.pt").exists()
