"""Whole segmentation networks that others publish, by name: ``model.weights=deeplab_resnest50_ade``.

Addresses and hashes are those of their authors: PyTorch-Encoding (its store is widely reported to fail; a
file that was fetched some other way does as well) and torchvision. Sizes where the authors state them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from segkit.runtime.download import cache_folder, fetch, resolve_source

ENCODING = "https://s3.us-west-1.wasabisys.com/encoding/models/"
TORCHVISION = "https://download.pytorch.org/models/"


class PublishedFile(NamedTuple):
    """One published file."""

    address: str
    hash: str  # first digits, of SHA-1 where ``algorithm`` says so
    algorithm: str
    megabytes: float | None
    model: str  # what to choose so that it loads
    classes: str


def _encoding(name: str, digits: str, model: str) -> PublishedFile:
    return PublishedFile(f"{ENCODING}{name}-{digits}.zip", digits, "sha1", None, model, "150 of ADE20K")


def _torchvision(name: str, digits: str, megabytes: float, model: str) -> PublishedFile:
    address = f"{TORCHVISION}{name}_coco-{digits}.pth"
    return PublishedFile(
        address, digits, "sha256", megabytes, f"{model} model.align_corners=false", "21 of Pascal VOC"
    )


FCN = "model=fcn_resnest50 model/backbone=resnet model.backbone.variant="
NETWORKS = {
    "deeplab_resnest50_ade": _encoding("deeplab_resnest50_ade", "2225f09d", "model=deeplabv3_resnest50"),
    "deeplab_resnest101_ade": _encoding("deeplab_resnest101_ade", "06ca799c", "model=deeplabv3_resnest101"),
    "deeplab_resnest200_ade": _encoding("deeplab_resnest200_ade", "7b9e7d3e", "model=deeplabv3_resnest200"),
    "deeplab_resnest269_ade": _encoding("deeplab_resnest269_ade", "0074dd10", "model=deeplabv3_resnest269"),
    "fcn_resnest50_ade": _encoding("fcn_resnest50_ade", "4aba491a", "model=fcn_resnest50"),
    "deeplabv3_resnet50_coco": _torchvision(
        "deeplabv3_resnet50", "cd0a2569", 160.515, "model=deeplabv3_resnet50"
    ),
    "deeplabv3_resnet101_coco": _torchvision(
        "deeplabv3_resnet101", "586e9e4e", 233.217, "model=deeplabv3_resnet101"
    ),
    "fcn_resnet50_coco": _torchvision("fcn_resnet50", "1167a1af", 135.009, f"{FCN}50"),
    "fcn_resnet101_coco": _torchvision("fcn_resnet101", "7ecb50ca", 207.711, f"{FCN}101"),
}


def resolve_weights(weights: str) -> Path:
    """The local file of weights: a path, an address, or a published network's, fetched once and verified.

    Raises:
        OSError: it cannot be had; the message says where to put it by hand.
        ValueError: there is no such file or name, or the file is another.
    """
    if (file := NETWORKS.get(weights)) is not None:
        target = cache_folder() / "weights" / file.address.rsplit("/", 1)[1]
        if file.algorithm == "sha1":
            return fetch(file.address, target, sha1=file.hash)
        return fetch(file.address, target, sha256=file.hash)
    if re.fullmatch(r"[\w-]+", weights) and not Path(weights).exists():
        raise ValueError(
            f"model.weights={weights}: there is no such file, and no published network of this name; there "
            f"are: {', '.join(NETWORKS)}"
        )
    return resolve_source(weights)


def check_local_file(key: str, weights: str | None) -> None:
    """Make sure that weights which are a local file exist; nothing is downloaded.

    Args:
        key: of the setting, for the error.
        weights: its value.

    Raises:
        ValueError: there is no such file.
    """
    if (
        weights is None
        or weights == "imagenet"
        or weights in NETWORKS
        or weights.startswith(("http:", "https:"))
    ):
        return
    try:
        resolve_source(weights)
    except ValueError as error:
        raise ValueError(f"{key}={weights}: {str(error).removeprefix(f'{weights}: ')}") from error


def find_published(path: Path) -> PublishedFile | None:
    """What is published under a file's name, if anything."""
    return next((file for file in NETWORKS.values() if file.address.endswith(f"/{path.name}")), None)
