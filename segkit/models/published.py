"""Published segmentation networks by name: ``model.weights=deeplab_resnest50_ade``.

Addresses, hashes and sizes are those of the authors, PyTorch-Encoding and torchvision. The store of
PyTorch-Encoding is widely reported to fail; its files also load from a path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from segkit.runtime.download import cache_folder, fetch, resolve_source

ENCODING = "https://s3.us-west-1.wasabisys.com/encoding/models/"
TORCHVISION = "https://download.pytorch.org/models/"


class PublishedFile(NamedTuple):
    """A published file."""

    address: str
    hash: str  # first digits
    algorithm: Literal["sha1", "sha256"]
    megabytes: float | None
    model: str  # settings of the model that it loads into
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
    """Return the local file of a path, an address or a published network; downloads are cached and verified.

    Raises:
        OSError: the download failed; the message names where to put the file by hand.
        ValueError: there is no such file or name, or the hash differs.
    """
    if (file := NETWORKS.get(weights)) is not None:
        target = cache_folder() / "weights" / file.address.rsplit("/", 1)[1]
        return fetch(file.address, target, digest=f"{file.algorithm}:{file.hash}")
    if re.fullmatch(r"[\w-]+", weights) and not Path(weights).exists():
        raise ValueError(
            f"model.weights={weights}: neither a file nor a published network. Published networks: "
            f"{', '.join(NETWORKS)}"
        )
    return resolve_source(weights)


def check_local_file(key: str, weights: str | None) -> None:
    """Check that weights exist if they are a local file; nothing is downloaded.

    Raises:
        ValueError: there is no such file.
    """
    if weights in (None, "imagenet", *NETWORKS) or weights.startswith(("http:", "https:")):
        return
    try:
        resolve_source(weights)
    except ValueError as error:
        raise ValueError(f"{key}={weights}: {str(error).removeprefix(f'{weights}: ')}") from error


def find_published(path: Path) -> PublishedFile | None:
    """Return the published file of this name, or None."""
    return next((file for file in NETWORKS.values() if file.address.endswith(f"/{path.name}")), None)
