"""data.exclude leaves training images out, in every data set of files, and on resume."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import write_image
from runs import SMALL, Run
from segkit.config import registry
from segkit.data import verify

CLASSES = "id,name\n0,ground\n1,cat\n"
LAYOUTS = {  # images and masks of a split, by data set
    "camvid": ("images/{}/{}.png", "annotations/{}/{}.png"),
    "ade20k": ("images/{}/{}.png", "annotations/{}/{}.png"),
    "cityscapes": ("leftImg8bit/{}/{}_leftImg8bit.png", "gtFine/{}/{}_gtFine_labelIds.png"),
    "voc": ("JPEGImages/{1}.jpg", "SegmentationClass/{1}.png"),
    "folder": ("images/{}/{}.png", "masks/{}/{}.png"),
}
SPLITS = {"ade20k": ("training", "validation")}


def make(root, kind, train="abcd", val="ef"):
    """Write images of noise, and masks of two classes."""
    draw = np.random.default_rng(0)
    mask = np.eye(48, dtype=np.uint8)
    if kind == "cityscapes":  # 7 is road, 0 is not scored
        mask *= 7
    for split, names in zip(SPLITS.get(kind, ("train", "val")), (train, val), strict=True):
        for name in names:
            arrays = draw.integers(0, 256, (48, 48, 3)).astype(np.uint8), mask
            for place, array in zip(LAYOUTS[kind], arrays, strict=True):
                write_image(root / place.format(split, name), array)
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
    (root / "classes.csv").write_text(CLASSES)
    return root


def build(kind, root, split="train", **settings):
    return registry.build("data.datasets", {"name": kind, "root": str(root), **settings}, split=split)


@pytest.mark.parametrize("kind", [kind for kind in registry.available("data.datasets") if kind != "shapes"])
def test_listed_training_images_are_left_out(tmp_path, kind):
    file = tmp_path / "exclude.txt"
    file.write_text("# wrong labels\n\nc\n a \nc\n")
    root = make(tmp_path / "data", kind)
    train = build(kind, root, exclude=str(file))
    assert (train.names, sorted(train.excluded)) == (["b", "d"], ["a", "c"])
    np.testing.assert_array_equal(train.read(0).image, build(kind, root).read(1).image)
    assert build(kind, root, "val", exclude=str(file)).names == ["e", "f"]
    assert verify.verify_dataset(train, expected=4) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ne\n", r"exclude.txt: e is not a training image. A name is, for example, a"),
        ("a\nb\nc\nd\n", r"data.exclude=.*: leaves out all 4 training images"),
        (None, r"data.exclude=.*exclude.txt: there is no such file. It lists names of training images"),
    ],
)
def test_list_with_wrong_names_is_refused(tmp_path, text, message):
    file = tmp_path / "exclude.txt"
    if text is not None:
        file.write_text(text)
    root = make(tmp_path / "data", "folder")
    with pytest.raises(ValueError, match=message):
        build("folder", root, exclude=str(file))


@pytest.mark.medium
def test_run_reports_excluded_images_and_notices_another_list_on_resume(tmp_path):
    root, file = make(tmp_path / "data", "folder", train="abcdefgh"), tmp_path / "exclude.txt"
    file.write_text("a\nc\n")
    small = [s for s in SMALL if not s.startswith("data")]
    settings = [*small, "data=folder", f"data.root={root}", "sizes.base=48", "sizes.crop=32"]
    settings += ["augment.scales=[1,1]", "evaluation.every=2"]

    def train(*more, small=()):
        return Run(tmp_path / "run", *more, small=small)

    first = train("schedule.iterations=2", f"data.exclude={file}", small=settings)
    first.complete()
    assert f"data.exclude={file}: 2 of 8 training images are left out" in first.output
    same = train("schedule.iterations=3", "resume=true")  # with the stored list
    same.complete()
    assert "2 of 8 training images are left out" in same.output
    assert "other names" not in same.output
    file.write_text("a\n")
    other = train("schedule.iterations=4", "resume=true")
    assert other.exit_status() == 2
    assert "number of training images=7: the run was trained with 6" in other.output
    file.write_text("a\nd\n")
    renamed = train("schedule.iterations=4", "resume=true")
    renamed.complete()
    assert "careful: the training files have other names" in renamed.output
