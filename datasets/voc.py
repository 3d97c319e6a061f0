"""Pascal VOC 2012, segmentation, with the augmented training list.

1,464 training and 1,449 validation photographs with masks of 20 classes and background; 2 GB to fetch. With
SBD (1.4 GB) the list trainaug has 10,582 training images: data.train_split=trainaug.
Source:  http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (no login)
         SBD: http://home.bharathh.info/pubs/codes/SBD/download.html
License: images under the terms of flickr, research use
Cite:    Everingham et al.: The Pascal Visual Object Classes Challenge: A Retrospective, IJCV 2015
         Hariharan et al.: Semantic Contours from Inverse Detectors, ICCV 2011

Layout below --root (the folder VOCdevkit/VOC2012):
  JPEGImages/*.jpg
  SegmentationClass/*.png      palette files; 0: background, 1..20, 255: borders, not scored
  SegmentationClassAug/*.png   masks of SBD, for images without an official mask; no borders
  ImageSets/Segmentation/{train,val,trainval,trainaug}.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

from command import Script, is_complete, unpack
from tqdm import tqdm

from segkit.config.values import parse_path

OFFICIAL = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}
FOLDERS = ("JPEGImages", "SegmentationClass", "ImageSets")


def prepare(arguments: argparse.Namespace, root: Path) -> None:
    """Download and unpack VOC 2012; with ``--sbd`` add the masks of SBD and the list trainaug."""
    if not is_complete(root, ["SegmentationClass"], {"": OFFICIAL["trainval"]}):
        unpack(arguments.archive or fetch_archive(root.parent), root, map_member)
    if arguments.sbd:
        add_sbd(arguments.sbd, root)


def fetch_archive(folder: Path) -> Path:
    """Download the official archive unless it is in the folder, verified by torchvision's MD5."""
    from torchvision.datasets.utils import download_url
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    source = DATASET_YEAR_DICT["2012"]
    target = folder / source["filename"]
    try:
        download_url(source["url"], folder, md5=source["md5"])
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot download {source['url']}: {error}. Fetch it some other way (MD5 {source['md5']}) and "
            f"put it at {target}, or pass it with --archive"
        ) from error
    return target


def map_member(member: PurePosixPath) -> PurePosixPath | None:
    """Return the path of images, class masks and lists below the folder VOC2012 of the archive."""
    parts = member.parts
    if "VOC2012" in parts:
        inside = parts[parts.index("VOC2012") + 1 :]
        if inside and inside[0] in FOLDERS:
            return PurePosixPath(*inside)
    return None


def add_sbd(archive: Path, root: Path) -> None:
    """Write SegmentationClassAug and trainaug.txt: VOC's train list and all of SBD, without VOC's val list.

    Args:
        archive: ``benchmark.tgz`` of SBD, or the folder it was unpacked to.
        root: the folder VOC2012.
    """
    import numpy as np
    from PIL import Image
    from scipy.io import loadmat

    if not archive.is_dir():
        unpacked = root.parent / "SBD"
        unpack(archive, unpacked, lambda member: member)
        archive = unpacked
    files = {file.stem: file for file in archive.rglob("cls/*.mat")}
    if not files:
        raise ValueError(f"--sbd={archive}: there is no cls/*.mat. Give benchmark.tgz of SBD, or its folder")
    lists = root / "ImageSets/Segmentation"
    official, val = ({*(lists / f"{name}.txt").read_text().split()} for name in ("train", "val"))
    folder = root / "SegmentationClassAug"
    folder.mkdir(exist_ok=True)
    for name in tqdm(sorted(files.keys() - official - val), "masks of SBD", disable=None):
        mask = loadmat(str(files[name]))["GTcls"][0]["Segmentation"][0]
        part = folder / f"{name}.part"
        Image.fromarray(mask.astype(np.uint8)).save(part, "PNG")
        part.replace(folder / f"{name}.png")
    names = sorted((official | files.keys()) - val)
    (lists / "trainaug.txt").write_text("".join(f"{name}\n" for name in names))


script = Script("voc", __doc__ or "", OFFICIAL)
options = script.add_prepare(prepare, "download and unpack VOC 2012, and add the masks of SBD")
options.add_argument(
    "--archive", type=parse_path, metavar="FILE", help="VOCtrainval_11-May-2012.tar, downloaded before"
)
options.add_argument(
    "--sbd", type=parse_path, metavar="PATH", help="benchmark.tgz of SBD or its folder: adds trainaug"
)

if __name__ == "__main__":
    script.run()
