"""Data sets in folders."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from conftest import write_image
from segkit.data import label_map, overlap
from segkit.data.datasets import folder

CLASSES = "id,name,color,ignore\n0,ground,#000000,\n1,cat,#ff0000,\n9,unsure,#00ff00,yes\n"


def make(root, names, *, classes=CLASSES, masks="masks"):
    """Images of which each holds its number as a gray value, with masks of 0, 1 and 9."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    (root / "classes.csv").write_text(classes)
    for index, name in enumerate(names):
        write_image(root / "images" / f"{name}.bmp", np.full((4, 6, 3), index, np.uint8))
        write_image(root / masks / f"{name}.png", np.array([[0, 1, 9, 0, 1, 9]] * 4, np.uint8))
    return str(root)


def test_splits_from_folders(tmp_path):
    root = make(tmp_path, ["train/a", "train/deep er/ü", "val/b"])
    assert folder.build("train", root=root).names == ["a", "deep er/ü"]
    sample = folder.build("val", root=root).read(0)
    assert (sample.name, sample.image[0, 0, 0]) == ("b", 2)
    assert sample.label[0].tolist() == [0, 1, 255, 0, 1, 255]


def test_shares_split_by_seed_without_overlap(tmp_path):
    root = make(tmp_path, [f"{index:02d}" for index in range(20)])
    build = {"root": root, "train_split": "75%", "val_split": "25%"}
    train, val = (set(folder.build(split, **build).names) for split in ("train", "val"))
    assert (len(train), len(val), len(train | val)) == (15, 5, 20)
    assert set(folder.build("val", **build).names) == val
    assert set(folder.build("val", **build, seed=1).names) != val
    fractions = {"train_split": "0.75", "val_split": ".25"}
    assert set(folder.build("val", **(build | fractions)).names) == val


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "nowhere"}, r"data.root=nowhere: there is no folder images and no masks .*own_data.md"),
        ({"train_split": "nothing"}, r"no folder images/nothing .*data.train_split is a folder, a list"),
        ({"train_split": "missing.txt"}, r"missing.txt: no such list. It has one image per line"),
        ({"train_split": "bad.txt"}, r"bad.txt: line 2 names .*gone.bmp, which is not there"),
        ({"classes": "other.csv"}, r"other.csv: no such class table"),
        ({"train_split": "80%", "val_split": "50%"}, r"add up to 130%, .* such as 80% and 20%"),
        ({"train_split": "120%"}, r"data.train_split=120%: must be more than 0% and at most 100%"),
        ({"train_split": "0%"}, r"data.train_split=0%: must be more"),
        ({"train_split": "1%"}, r"data.train_split=1% of 1 images selects none"),
        *(({"masks": masks}, r"end of its file names, such as masks/\*") for masks in ("masks*", "*/masks")),
        ({"images": "images/*/*"}, r"end of its file names, such as images/\*"),
    ],
)
def test_invalid_split_or_folder_is_refused_with_a_fix(tmp_path, change, message):
    root = make(tmp_path, ["train/a"])
    (tmp_path / "bad.txt").write_text("train/a.bmp\ngone.bmp\n")
    with pytest.raises(ValueError, match=message):
        folder.build("train", **({"root": root} | change))


def test_other_folders_and_suffixes_by_setting(tmp_path):
    root = make(tmp_path, ["train/a", "train/b_c"])
    for name in ("a", "b_c"):
        (tmp_path / f"masks/train/{name}.png").rename(tmp_path / f"masks/train/{name}_Mask.png")
    with pytest.raises(ValueError, match=r"a_Mask.png ends in _Mask; set data.masks='masks/\*_Mask'"):
        folder.build("train", root=root)
    (tmp_path / "masks").rename(tmp_path / "labels")
    with pytest.raises(
        ValueError, match=r"no folder masks in .*data.masks='FOLDER/\*', such as JPEGImages/\* "
    ):
        folder.build("train", root=root)
    dataset = folder.build("train", root=root, masks="labels/*_Mask")
    assert [(pair.name, pair.label.stem) for pair in dataset.pairs] == [("a", "a_Mask"), ("b_c", "b_c_Mask")]
    (tmp_path / "list.txt").write_text("train/b_c.bmp\ntrain/a\n")
    dataset = folder.build("train", root=root, masks="labels/*_Mask", train_split="list.txt")
    assert [pair.label.stem for pair in dataset.pairs] == ["b_c_Mask", "a_Mask"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("Cafe\u0301.png", r"differs only in .*Unicode encoding .*; rename one of them"),
        ("CAF\u00e9.png", "differs only in capitalization .*; rename one of them"),
        ("Caf\u00e9.jpg", "is no lossless image; save the mask again"),
    ],
)
def test_near_match_of_a_mask_name_is_reported_with_a_fix(tmp_path, mask, message):
    root = make(tmp_path, ["train/Caf\u00e9", "train/b"])
    (tmp_path / "masks/train/Caf\u00e9.png").rename(tmp_path / "masks/train" / mask)
    with pytest.raises(ValueError, match=message):
        folder.build("train", root=root)


def test_suggested_command_has_the_root_and_splits(tmp_path):
    root = make(tmp_path / "my data", ["a", "b", "c", "d"])
    (tmp_path / "my data/images/e.bmp").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no mask e") as caught:
        folder.build("train", root=root, train_split="50%")
    advised = re.search("`(.*?)`", str(caught.value))[1]
    assert shlex.split(advised)[2:] == ["verify", "--root", root, "data.train_split=50%"]
    (tmp_path / "my data/images/e.bmp").unlink()
    (tmp_path / "my data/classes.csv").write_text("id,name\n0,ground\n")
    with pytest.raises(ValueError, match=f"verify --root '{root}' data.train_split=50%` lists"):
        folder.build("train", root=root, train_split="50%").read(0)


@pytest.mark.parametrize("share", [50, 60, 70, 75, 80, 85, 90, 95, 33.3, 57.5])
def test_shares_that_sum_to_100_percent_hold_each_image_once(share):
    parts = folder._parse_shares(f"{share:g}%", f"{100 - share:g}%")
    for images in range(1, 201):
        train, val = (folder._choose_share(images, part, 0) for part in parts)
        assert sorted([*train, *val]) == list(range(images))
        assert abs(len(train) - images * share / 100) <= 0.5 + 1e-9


def make_shared(root, how):
    """Return settings whose splits share two of three validation images."""
    make(root, ["train/a", "train/b", "val/c"])
    for name in ("x", "y"):
        for kind, suffix in (("images", "bmp"), ("masks", "png")):
            target = root / kind / f"val/{name}.{suffix}"
            source = root / kind / f"train/{'ab'['xy'.index(name)]}.{suffix}"
            if how == "copies":
                target.write_bytes(source.read_bytes())
            elif how == "links":
                target.symlink_to(source)
    if how == "lists":
        (root / "t.txt").write_text("train/a\ntrain/b\n")
        (root / "v.csv").write_text("images/train/b.bmp\nval/c.bmp\n/images/train/a.bmp\n")
        return {"train_split": "t.txt", "val_split": "v.csv"}
    return {}


@pytest.mark.parametrize("how", ["copies", "links", "lists"])
def test_images_in_both_splits_are_counted(tmp_path, caplog, how):
    settings = {"root": str(tmp_path), **make_shared(tmp_path, how)}
    train, val = (folder.build(split, **settings) for split in ("train", "val"))
    overlap.warn_about_overlap(train, val)
    assert "2 of 3 validation images are also trained on, such as" in caplog.text
    caplog.clear()
    overlap.warn_if_trained_on({"name": "folder", **settings}, val)
    assert "2 of 3 validation images" in caplog.text
    caplog.clear()
    overlap.warn_if_trained_on({"name": "folder", "root": "nowhere"}, val)
    assert not caplog.text


def test_different_images_of_equal_size_are_not_shared(tmp_path):
    root = make(tmp_path, ["train/a", "train/b", "val/c"])
    assert not overlap.describe_overlap(*(folder.build(split, root=root) for split in ("train", "val")))


@pytest.mark.parametrize(
    "text",
    [
        "a.bmp\nsub/b c.bmp\n",
        "a\nsub/b c\n",
        "# a comment\n\nimages/a.bmp,masks/a.png\nimages/sub/b c.bmp,masks/sub/b c.png\n",
        'image,mask\na.bmp,a.png\n"sub/b c.bmp","sub/b c.png"\n',
        "a.bmp\ta.png\nsub/b c.bmp\tsub/b c.png\n",
        "images/a.bmp masks/a.png\nimages/sub/b c.bmp,masks/sub/b c.png\n",
        "\ufeffa.bmp\r\nsub/b c.bmp\r\n",
        "/images/a.bmp /masks/a.png\n/images/sub/b c.bmp\t/masks/sub/b c.png\n",
        "{root}/images/a.bmp,{root}/masks/a.png\n{root}/images/sub/b c.bmp,{root}/masks/sub/b c.png\n",
        "images\\a.bmp\nimages\\sub\\b c.bmp\n",
        "../{name}/images/a.bmp\nsub/../sub/b c.bmp\n",
        "~/{name}/images/a.bmp\n~/{name}/images/sub/b c.bmp\n",
    ],
    ids=[
        *("images", "without suffix", "comment", "header", "tabs", "spaces", "byte order mark"),
        *("leading slash", "absolute", "backslashes", "dots", "home"),
    ],
)
def test_lists_find_the_images_in_their_order(tmp_path, text, monkeypatch):
    make(tmp_path, ["other", "a", "sub/b c"])
    text = text.replace("{root}", str(tmp_path)).replace("{name}", tmp_path.name)
    (tmp_path / "list.txt").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for root in (str(tmp_path), tmp_path.name):
        dataset = folder.build("train", root=root, train_split="list.txt")
        assert dataset.names == ["a", "sub/b c"]
        assert [int(dataset.read(index).image[0, 0, 0]) for index in (0, 1)] == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_lists_and_class_tables_in_any_encoding_are_read(tmp_path, encoding):
    root = make(tmp_path, ["Straße", "b"])
    (tmp_path / "list.txt").write_bytes("Straße\r\nb\r\n".encode(encoding))
    (tmp_path / "classes.csv").write_bytes(
        "ID;Name;r;g;b\r\n0.0;Fläche;1;2;3\r\n1;b;4;5;6\r\n9;c;7;8;9\r\n".encode(encoding)
    )
    dataset = folder.build("train", root=root, train_split="list.txt")
    assert dataset.names == ["Straße", "b"]
    assert dataset.table.names == ["Fläche", "b", "c"]
    assert dataset.table.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_listed_name_may_begin_with_a_tilde(tmp_path):
    root = make(tmp_path, ["~old", "b"])
    (tmp_path / "list.txt").write_text("~old\nb\n")
    assert folder.build("train", root=root, train_split="list.txt").names == ["~old", "b"]


def test_lists_give_unique_names_any_masks_and_each_image_once(tmp_path, caplog):
    root = make(tmp_path, ["a", "b", "sub/a"])
    (tmp_path / "images/a.bmp").rename(tmp_path / "images/sub/x.bmp")
    for suffix in ("png", "bmp"):
        write_image(tmp_path / f"images/a.{suffix}", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "list.txt").write_text("a.png,a.png\nb\na.bmp,b.png\nimages/b.bmp\nsub/a\n")
    dataset = folder.build("train", root=root, train_split="list.txt")
    assert dataset.names == ["a.png", "b", "a.bmp", "sub/a"]
    assert [pair.image.name for pair in dataset.pairs] == ["a.png", "b.bmp", "a.bmp", "a.bmp"]
    assert [pair.label.name for pair in dataset.pairs] == ["a.png", "b.png", "b.png", "a.png"]
    assert "list.txt: 1 image repeated; each image is used once" in caplog.text
    (tmp_path / "list.txt").write_text("b\nb.bmp,a.png\n")
    with pytest.raises(ValueError, match=r"images/b.bmp has two masks, .*masks/b.png and .*masks/a.png"):
        folder.build("train", root=root, train_split="list.txt")


def test_listed_images_elsewhere_are_named_below_the_common_folder(tmp_path):
    root = make(tmp_path / "data", ["a"])
    make(tmp_path / "other", ["a"])
    (tmp_path / "data/list.txt").write_text("a\n../other/images/a.bmp,../other/masks/a.png\n")
    names = folder.build("train", root=root, train_split="list.txt").names
    assert names == ["data/images/a", "other/images/a"]


def test_several_roots_are_concatenated_with_unique_prefixes(tmp_path, caplog):
    dataset = folder.build("train", root=[make(tmp_path / name, ["train/a"]) for name in ("one", "two")])
    assert dataset.names == ["one/a", "two/a"]
    assert len({pair.image for pair in dataset.pairs}) == 2
    roots = [make(tmp_path / name / "data", ["train/a"]) for name in ("one", "one/../two")]
    assert folder.build("train", root=roots).names == ["one/data/a", "two/data/a"]
    (tmp_path / "link").symlink_to(roots[0])
    assert folder.build("train", root=[roots[0], str(tmp_path / "link")]).names == ["one/data/a"]
    assert "data.root: 1 image repeated" in caplog.text


def test_cyclic_links_do_not_repeat_images(tmp_path):
    root = make(tmp_path, ["a", "sub/b", "sub/deep/c"])
    for kind in ("images", "masks"):
        (tmp_path / kind / "loop").symlink_to(tmp_path / kind)
        (tmp_path / kind / "sub/deep/up").symlink_to("..")
        (tmp_path / kind / "alias").symlink_to("sub")
    assert folder.build("train", root=root, train_split=".").names == ["a", "sub/b", "sub/deep/c"]
    for kind in ("images", "masks"):
        (tmp_path / "elsewhere" / kind).mkdir(parents=True)
        (tmp_path / kind / "sub").rename(tmp_path / "elsewhere" / kind / "sub")
        (tmp_path / kind / "sub").symlink_to(tmp_path / "elsewhere" / kind / "sub")
    assert folder.build("train", root=root, train_split=".").names == ["a", "alias/b", "alias/deep/c"]


@pytest.mark.parametrize(
    ("file", "line"), [("list.txt", "a" * 200_000), ("classes.csv", f"0,{'a' * 200_000}")]
)
def test_oversized_csv_cell_is_refused_in_one_line(tmp_path, file, line):
    root = make(tmp_path, ["train/a"])
    (tmp_path / "list.txt").write_text("train/a\n")
    (tmp_path / file).write_text(f"id,name\n{line}\n" if file == "classes.csv" else f"{line}\n")
    with pytest.raises(ValueError, match=rf"{file}, line \d: not .*field larger than field limit") as caught:
        folder.build("train", root=root, train_split="list.txt")
    assert len(str(caught.value)) < 400


def test_tilde_is_the_home_directory(tmp_path, monkeypatch):
    make(tmp_path / "pets", ["train/a"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.build("train", root="~/pets").read(0).name == "a"
    assert (
        label_map.load_class_table({"name": "folder", "root": "~/pets", "classes": "classes.csv"}).num_classes
        == 2
    )
