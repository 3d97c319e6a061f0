"""Cityscapes, fine annotations.

2,975 training and 500 validation frames of 2048x1024 with 19 scored classes; 11.3 GB to fetch, 8 GB unpacked.
Source:  https://www.cityscapes-dataset.com (register, log in, Downloads): leftImg8bit_trainvaltest.zip (11
         GB) and gtFine_trainvaltest.zip (241 MB)
License: own terms, non-commercial research and education only; no redistribution
Cite:    Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016

Layout below --root:
  leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
  gtFine/{train,val}/CITY/*_gtFine_labelIds.png   the official label ids; no train-id files are needed
"""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

from command import Script, is_complete, unpack

from segkit.config.values import parse_path
from segkit.runtime.commands import cli_command

OFFICIAL = {"train": 2975, "val": 500}
ZIPS = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")


def prepare(arguments: argparse.Namespace, root: Path) -> None:
    """Unpack frames and label ids."""
    splits = {*OFFICIAL, "test"} if arguments.test else set(OFFICIAL)

    def map_member(member: PurePosixPath) -> PurePosixPath | None:
        if len(member.parts) < 3 or member.parts[1] not in splits:
            return None
        if member.parts[0] == "gtFine" and member.parts[1] != "test":
            return member if member.name.endswith("_gtFine_labelIds.png") else None
        return member if member.parts[0] == "leftImg8bit" else None

    if not arguments.zips:
        if is_complete(root, ("leftImg8bit", "gtFine"), OFFICIAL) and not arguments.test:
            return
        raise ValueError(
            f"{root} is not complete. Download {' and '.join(ZIPS)} from https://www.cityscapes-dataset.com, "
            f"then `{cli_command('data', 'cityscapes')} prepare --root {root} --zips {' '.join(ZIPS)}`"
        )
    for archive in arguments.zips:
        unpack(archive, root, map_member)


script = Script("cityscapes", __doc__ or "", OFFICIAL)
options = script.add_prepare(prepare, "unpack the needed files of the two archives")
options.add_argument("--zips", type=parse_path, nargs="+", metavar="FILE", help=" and ".join(ZIPS))
options.add_argument("--test", action="store_true", help="unpack the test frames too")

if __name__ == "__main__":
    script.run()
