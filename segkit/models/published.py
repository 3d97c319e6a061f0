"""Published weights: addresses, and segmentation networks by name, ``model.weights=deeplab_resnest50_ade``.

The store of PyTorch-Encoding is widely reported to fail; its files also load from a path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from segkit.runtime.download import cache_folder, fetch, resolve_source

ENCODING = "https://s3.us-west-1.wasabisys.com/encoding/models/"
TORCHVISION = "https://download.pytorch.org/models/"
FCN = "model=fcn_resnest50 model/backbone=resnet model.align_corners=false model.backbone.variant="


class PublishedNetwork(NamedTuple):
    """A published segmentation network."""

    digits: str  # first digits of the hash of its file, at the end of the name
    settings: str  # that build the model it loads into


NETWORKS = {
    "deeplab_resnest50_ade": PublishedNetwork("2225f09d", "model=deeplabv3_resnest50"),
    "deeplab_resnest101_ade": PublishedNetwork("06ca799c", "model=deeplabv3_resnest101"),
    "deeplab_resnest200_ade": PublishedNetwork("7b9e7d3e", "model=deeplabv3_resnest200"),
    "deeplab_resnest269_ade": PublishedNetwork("0074dd10", "model=deeplabv3_resnest269"),
    "fcn_resnest50_ade": PublishedNetwork("4aba491a", "model=fcn_resnest50"),
    "deeplabv3_resnet50_coco": PublishedNetwork(
        "cd0a2569", "model=deeplabv3_resnet50 model.align_corners=false"
    ),
    "deeplabv3_resnet101_coco": PublishedNetwork(
        "586e9e4e", "model=deeplabv3_resnet101 model.align_corners=false"
    ),
    "fcn_resnet50_coco": PublishedNetwork("1167a1af", f"{FCN}50"),
    "fcn_resnet101_coco": PublishedNetwork("7ecb50ca", f"{FCN}101"),
}


def network_address(name: str) -> str:
    """Return the address of a published network."""
    digits = NETWORKS[name].digits
    if name.endswith("_ade"):
        return f"{ENCODING}{name}-{digits}.zip"
    return f"{TORCHVISION}{name}-{digits}.pth"


def fetch_published(address: str) -> Path:
    """Return a published file, downloaded into the cache once and verified.

    Its name ends in the first digits of its hash: SHA-1 at PyTorch-Encoding, elsewhere SHA-256.

    Raises:
        OSError: the download failed; the message names where to put the file by hand.
        ValueError: the hash differs.
    """
    name = address.rsplit("/", 1)[1]
    algorithm = "sha1" if address.startswith(ENCODING) else "sha256"
    digits = name.rsplit("-", 1)[1].split(".")[0]
    return fetch(address, cache_folder() / "weights" / name, digest=f"{algorithm}:{digits}")


def resolve_weights(weights: str) -> Path:
    """Return the local file of a path, an address or a published network; downloads are cached and verified.

    Raises:
        OSError: the download failed.
        ValueError: there is no such file or name, or the hash differs.
    """
    if weights in NETWORKS:
        return fetch_published(network_address(weights))
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
        raise ValueError(f"{key}={error}") from error
