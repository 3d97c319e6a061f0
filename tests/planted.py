"""Data sets of generated scenes for the tests of the doctor."""

from __future__ import annotations

from conftest import write_image
from segkit.data.datasets import folder, shapes
from segkit.tools import doctor

NAMES = ["ground", "disc", "spotted", "ring", "triangle", "striped", "box", "checked", "star", "band"]
COLORS = ["404040", "ff0000", "00ff00", "0000ff", "ffff00", "ff00ff", "00ffff", "ff8000", "8000ff", "ffffff"]
CLASSES = "id,name,color,ignore\n" + "".join(f"{k},{NAMES[k]},#{COLORS[k]},\n" for k in range(10))
SCENES = {"train": shapes.build("train", size=[120, 160]), "val": shapes.build("val", size=[120, 160])}


def write_pair(root, split, name, image, label):
    write_image(root / f"images/{split}/{name}.png", image)
    write_image(root / f"masks/{split}/{name}.png", label)


def make(root, train=16, val=8):
    """Write a sound data set of scenes; every class is in enough of them."""
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            sample = SCENES[split].read(index)
            write_pair(root, split, f"{split}{index}x", sample.image, sample.label)
    (root / "classes.csv").write_text(CLASSES + "255,unsure,#000000,yes\n")
    return root


def examine(root, checkpoint=None, **settings):
    """Return the findings, whose files are in ``out``."""
    settings |= {"root": str(root), "on_error": "skip"}
    datasets = {split: folder.build(split, **settings) for split in ("train", "val")}
    return doctor.examine_dataset(datasets, folder=root / "out", checkpoint=checkpoint)[0]


def find(findings, kind):
    """Return the one finding of a kind, and the names of the images of each of its cases."""
    finding = next((finding for finding in findings if finding.kind == kind), None)
    if finding is None:
        return None, []
    return finding, [{key.name for key in case.images} for case in finding.cases]


def is_serious(findings):
    return any(finding.severity == "serious" for finding in findings)


def kinds(findings):
    return {finding.kind for finding in findings}
