"""ADE20K scene parsing benchmark (SceneParse150, 2016).

20,210 training and 2,000 validation photographs with masks of 150 classes; 0.9 GB to fetch, 1.2 GB unpacked.
Source:  http://sceneparsing.csail.mit.edu (no login)
License: images for non-commercial research and education only, masks BSD-3-Clause
Cite:    Zhou, Zhao, Puig, Fidler, Barriuso, Torralba: Scene Parsing through ADE20K Dataset, CVPR 2017

Layout below --root (the folder ADEChallengeData2016):
  images/{training,validation}/ADE_*.jpg
  annotations/{training,validation}/ADE_*.png   0: other, not scored; 1..150
"""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

from command import Script, is_complete, unpack

from segkit.config.values import parse_path
from segkit.runtime import download

URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
DIGEST = "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"
OFFICIAL = {"training": 20210, "validation": 2000}


def map_member(member: PurePosixPath) -> PurePosixPath | None:
    """Return the path of images and annotations without the top folder of the archive."""
    parts = member.parts
    if parts[0] == "ADEChallengeData2016":
        parts = parts[1:]
    if parts and parts[0] in ("images", "annotations"):
        return PurePosixPath(*parts)
    return None


def prepare(arguments: argparse.Namespace, root: Path) -> None:
    """Download the archive, or use a local one, and unpack it."""
    if is_complete(root, ("images", "annotations"), OFFICIAL):
        return
    archive = arguments.zip or download.fetch(URL, root.parent / "ADEChallengeData2016.zip", digest=DIGEST)
    unpack(archive, root, map_member)


script = Script("ade20k", __doc__ or "", OFFICIAL)
options = script.add_prepare(prepare, f"download and unpack {URL}")
options.add_argument("--zip", type=parse_path, metavar="FILE", help="an archive downloaded before")

if __name__ == "__main__":
    script.run()
