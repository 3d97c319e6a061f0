"""One's own data in all its forms, and the tutorial, run as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import run_command
from segkit import checkpoint, components
from segkit.data import labels
from segkit.data.datasets import folder
from segkit.types import Logits

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
CLASSES = "id,name,colour,ignore\n0,ground,#000000,\n1,cat,#ff0000,\n9,unsure,#00ff00,yes\n"


def make(root, names, *, classes=CLASSES, masks="masks"):
    """Images of which each holds its number as a grey value, with masks of 0, 1 and 9."""
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


def test_masks_of_another_ending_and_folder_are_taken_by_a_setting(tmp_path):
    root = make(tmp_path, ["train/a", "train/b_c"])
    (tmp_path / "masks/train/a.png").rename(tmp_path / "masks/train/a_mask.png")
    (tmp_path / "masks/train/b_c.png").rename(tmp_path / "masks/train/b_c_mask.png")
    with pytest.raises(
        ValueError, match=r"a_mask.png has _mask at its end; say so with data.masks='masks/\*_mask'"
    ):
        folder.build("train", root=root)
    (tmp_path / "masks").rename(tmp_path / "labels")
    with pytest.raises(ValueError, match=r"to take what is there: data.masks='labels/\*'"):
        folder.build("train", root=root)
    dataset = folder.build("train", root=root, masks="labels/*_mask")
    assert [(pair.name, pair.label.name) for pair in dataset.pairs] == [
        ("a", "a_mask.png"),
        ("b_c", "b_c_mask.png"),
    ]
    (tmp_path / "list.txt").write_text("train/b_c.bmp\ntrain/a\n")
    dataset = folder.build("train", root=root, masks="labels/*_mask", train_split="list.txt")
    assert [pair.label.name for pair in dataset.pairs] == ["b_c_mask.png", "a_mask.png"]


@pytest.mark.parametrize("pattern", ["masks/*/*", "masks*", "*/masks"])
def test_a_pattern_that_is_none_is_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"a folder is meant, and how names in it end, such as masks/\*"):
        folder.build("train", root=make(tmp_path, ["train/a"]), masks=pattern)


def test_the_layout_of_pascal_voc_is_recognised_and_the_remedy_reads_it(tmp_path):
    root = make(tmp_path, ["2007_1", "2007_2"])
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_2\n")
    with pytest.raises(ValueError, match="this looks like Pascal VOC") as caught:
        folder.build("train", root=root)
    advised = dict(re.findall(r"data\.(\w+)='?([^ ']+)", str(caught.value).partition("VOC: ")[2]))
    assert folder.build("train", root=root, **advised).names == ["2007_2"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            "Cafe\u0301.png",
            r"differs only in how its letters are encoded .*NFC and NFD.*; rename one of them",
        ),
        ("CAF\u00e9.png", "differs only in capital letters; rename one of them"),
        ("Caf\u00e9.jpg", "cannot be it: JPEG changes ids at every edge; save the mask again"),
    ],
)
def test_a_mask_that_nearly_fits_is_named_with_the_remedy(tmp_path, mask, message):
    root = make(tmp_path, ["train/Caf\u00e9"])
    (tmp_path / "masks/train/Caf\u00e9.png").rename(tmp_path / "masks/train" / mask)
    with pytest.raises(ValueError, match=message):
        folder.build("train", root=root)


def test_the_advised_command_names_the_root_and_splits_that_were_used(tmp_path):
    root = make(tmp_path / "my data", ["a", "b", "c", "d"])
    (tmp_path / "my data/images/e.bmp").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no mask e") as caught:
        folder.build("train", root=root, train_split="50%")
    advised = re.search("`(.*?)`", str(caught.value))[1]
    assert shlex.split(advised)[1:] == [
        "datasets/folder.py",
        "verify",
        "--root",
        root,
        "data.train_split=50%",
    ]
    (tmp_path / "my data/images/e.bmp").unlink()
    (tmp_path / "my data/classes.csv").write_text("id,name\n0,ground\n")
    with pytest.raises(ValueError, match=f"verify --root '{root}' data.train_split=50%` to list"):
        folder.build("train", root=root, train_split="50%").read(0)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("80%", "50%", r"come to 130%, .* such as data.train_split=50%"),
        ("120%", "val", r"data.train_split=120%: a share is more than 0% and at most 100%"),
        ("0%", "20%", r"data.train_split=0%: a share is more"),
        ("1%", "20%", r"data.train_split=1% of 4 images is none"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(tmp_path, train, val, message):
    root = make(tmp_path, list("abcd"))
    with pytest.raises(ValueError, match=message):
        folder.build("train", root=root, train_split=train, val_split=val)


def test_validation_on_what_was_trained_on_is_told(tmp_path, caplog):
    root = make(tmp_path, ["train/a", "b"])
    folder.build("train", root=root, val_split="train")
    folder.build("val", root=root, train_split="50%", val_split="50%")
    assert not caplog.records
    folder.build("val", root=root, val_split="train")
    assert "data.val_split=train is also data.train_split" in caplog.text


def test_a_home_directory_is_meant_by_its_sign(tmp_path, monkeypatch):
    make(tmp_path / "pets", ["train/a"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.build("train", root="~/pets").read(0).name == "a"
    assert labels.of_settings({"name": "folder", "root": "~/pets", "classes": "classes.csv"}).num_classes == 2


def test_several_roots_are_weighted_as_one_and_trained_on(tmp_path, run_here, capsys):
    """Class weights of two roots are those of all their pixels together, and the training's loss has them."""
    draw = np.random.default_rng(0)
    masks = {}
    for root, share in (("a", 0.2), ("b", 0.7)):
        for index in range(4):
            place = tmp_path / root / "masks" / "train" / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            masks[root, index] = (draw.random((24, 32)) < share).astype(np.uint8)
            Image.fromarray(masks[root, index]).save(place)
            image = place.parents[2] / "images" / "train" / place.name
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).save(image)
        (tmp_path / root / "classes.csv").write_text("id,name\n0,ground\n1,cat\n")
    roots = f"data.root=[{tmp_path}/a,{tmp_path}/b]"
    run_command(ROOT / "datasets/folder.py", "stats", "--weights", tmp_path / "weights.txt", roots)
    count = np.bincount(np.stack([*masks.values()]).ravel())
    frequency = count / count.sum()  # each class is in every image
    expected = np.median(frequency) / frequency
    written = np.loadtxt(tmp_path / "weights.txt")
    np.testing.assert_allclose(written, expected, rtol=1e-5)
    small = "model=deeplabv3_demo model.backbone.width=8 model.head.width=8 loader.workers=0 device=cpu"
    length = "schedule.iterations=1 schedule.batch_size=2 sizes.base=32 sizes.crop=32"
    words = ["data=folder", roots, "data.val_split=train", *small.split(), *length.split()]
    words += ["run_name=both", f"run_dir={tmp_path}/runs", f"loss.class_weights={tmp_path}/weights.txt"]
    assert run_here("train_seg", *words) == 0
    assert "folder: 8 images" in capsys.readouterr().out
    settings = checkpoint.read(tmp_path / "runs/both/last.pt")["settings"]
    criterion = components.build("losses", settings["loss"], num_classes=2)
    logits, label = torch.randn(1, 2, 24, 32), torch.from_numpy(masks["a", 0])[None]
    theirs = torch.nn.functional.cross_entropy(
        logits, label.long(), weight=torch.tensor(expected, dtype=torch.float32)
    )
    torch.testing.assert_close(criterion(Logits(logits), label)["main"], theirs, rtol=1e-4, atol=0)


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
