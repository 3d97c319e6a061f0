"""Layouts of other projects: the trees of mmsegmentation's own tests, read by settings alone."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from conftest import write_image
from segkit.config.compose import compose_settings
from segkit.data.datasets import folder

FRANKFURT = "frankfurt/frankfurt_000000_000294"
TREES = {  # name: files below its folder, a yaml of at most ten lines, names of the samples of training
    "pseudo_dataset": (
        [f"imgs/0000{i}_img.jpg" for i in range(5)]
        + [f"gts/0000{i}_gt.png" for i in range(5)]
        + [("splits/train.txt", "00000\n00001\n00002\n00003\n"), ("splits/val.txt", "00004\n")],
        "images: imgs/*_img\nmasks: gts/*_gt\ntrain_split: splits/train.txt\nval_split: splits/val.txt",
        ["00000", "00001", "00002", "00003"],
    ),
    "pseudo_cityscapes_dataset": (
        [f"leftImg8bit/val/{FRANKFURT}_leftImg8bit.png"]
        + [
            f"gtFine/val/{FRANKFURT}_gtFine_{kind}.png"
            for kind in ("labelIds", "labelTrainIds", "instanceIds")
        ],
        "images: leftImg8bit/*_leftImg8bit\nmasks: gtFine/*_gtFine_labelTrainIds\ntrain_split: val",
        [FRANKFURT],
    ),
    "pseudo_isaid_dataset": (
        [f"img_dir/P0000_0_896_{part}.png" for part in ("0_896", "1024_1920", "1536_2432")]
        + [f"ann_dir/P0000_0_896_{part}_instance_color_RGB.png" for part in ("0_896", "1536_2432")]
        + [("splits/train.txt", "P0000_0_896_1536_2432\n"), ("splits/val.txt", "P0000_0_896_0_896\n")],
        "images: img_dir\nmasks: ann_dir/*_instance_color_RGB\ntrain_split: splits/train.txt\n"
        "val_split: splits/val.txt",
        ["P0000_0_896_1536_2432"],
    ),
    "pseudo_synapse_dataset": (
        [f"img_dir/0001_{i}.jpg" for i in range(5)] + [f"ann_dir/0001_{i}.png" for i in range(5)],
        "images: img_dir\nmasks: ann_dir\ntrain_split: 80%\nval_split: 20%",
        None,
    ),
    "pseudo_mapillary_dataset": (
        ["images/__CRyFzoDOXn6unQ6a3DnQ.jpg"]
        + [f"{version}/__CRyFzoDOXn6unQ6a3DnQ.png" for version in ("v1.2", "v2.0")],
        "masks: v1.2\ntrain_split: .\nval_split: .",
        ["__CRyFzoDOXn6unQ6a3DnQ"],
    ),
    "pseudo_a2d2_dataset": (
        ["images/20180807145028_camera_frontcenter_000000091.png"]
        + [f"annotations/20180807145028_camera_frontcenter_000000091_{n}LabelTrainIds.png" for n in (19, 34)],
        "masks: annotations/*_34LabelTrainIds\ntrain_split: .\nval_split: .",
        ["20180807145028_camera_frontcenter_000000091"],
    ),
}


def write_tree(root, files):
    """Write files of these names; each image has its own gray, each mask the ids 0..3 and 255."""
    for number, file in enumerate(files):
        name, text = (file, None) if isinstance(file, str) else file
        path = root / name
        if text is not None or not path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text or "no image")
        elif name.startswith(("imgs", "img_dir", "images", "leftImg8bit")):
            write_image(path, np.full((6, 8, 3), number, np.uint8))
        else:
            write_image(path, np.array([[0, 1, 2, 3, 255, 0, 1, 2]] * 6, np.uint8))
    (root / "classes.csv").write_text("id,name,ignore\n0,a,\n1,b,\n2,c,\n3,d,\n255,void,yes\n")


@pytest.mark.parametrize("name", TREES)
def test_foreign_layout_is_read_with_ten_settings(tmp_path, name):
    files, text, names = TREES[name]
    write_tree(tmp_path, files)
    assert len(text.splitlines()) <= 10
    settings = yaml.safe_load(text)
    dataset = folder.build("train", root=str(tmp_path), **settings)
    assert names is None or dataset.names == names
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert sample.label[0].tolist() == [0, 1, 2, 3, 255, 0, 1, 2]
    validation = folder.build("val", root=str(tmp_path), **{"val_split": "val", **settings})
    assert len(validation.read(0).label) == 6


def test_layout_settings_are_accepted_on_the_command_line(tmp_path):
    files, text, names = TREES["pseudo_dataset"]
    write_tree(tmp_path, files)
    words = [f"data.{key}={value}" for key, value in yaml.safe_load(text).items()]
    data = compose_settings("train", ["data=folder", f"data.root={tmp_path}", "run_name=a", *words])["data"]
    del data["name"]
    assert folder.build("train", **data).names == names
