"""Published networks by name: fetched, verified, loaded, and named in the documentation."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import threading
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision.models.segmentation as theirs

from segkit.models import published, segmenter
from segkit.models.backbones import resnest, resnet

PAGE = (Path(__file__).parent.parent / "docs" / "weights.md").read_text(encoding="utf-8")


def build_model(weights=None, classes=7, width=8):
    return segmenter.build(
        classes,
        backbone={"name": "resnest", "variant": "14", "width": 8},
        head={"name": "deeplabv3", "width": width},
        auxiliary={"name": "fcn", "stage": 3},
        weights=weights,
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """One of PyTorch-Encoding's files, of a build_model network, on a server that the table points to."""
    original = build_model()
    names = {"backbone": "pretrained", "auxiliary": "auxlayer"}
    renamed = {
        re.sub(r"^\w+", lambda m: names.get(m[0], m[0]), n): t for n, t in original.state_dict().items()
    }
    folder = tmp_path / "store"
    folder.mkdir()
    torch.save(renamed, folder / "x.pth")
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.write(folder / "x.pth", "x.pth")
    digits = hashlib.sha1((folder / "x.zip").read_bytes()).hexdigest()[:8]
    (folder / "x.zip").rename(folder / f"deeplab_resnest50_ade-{digits}.zip")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(published, "ENCODING", f"http://127.0.0.1:{server.server_port}/")
    file = published._encoding("deeplab_resnest50_ade", digits, "model=deeplabv3_resnest50")
    monkeypatch.setitem(published.NETWORKS, "deeplab_resnest50_ade", file)
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    yield original, tmp_path / "cache" / "weights" / f"deeplab_resnest50_ade-{digits}.zip"
    server.shutdown()
    server.server_close()


def test_published_network_is_downloaded_and_verified(store):
    original, place = store
    loaded = build_model("deeplab_resnest50_ade").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.state_dict().items())
    place.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"delete the file and try again; it has the sha1"):
        build_model("deeplab_resnest50_ade")


def test_mismatch_names_the_published_model(store):
    with pytest.raises(
        ValueError, match=r"another network\n(.|\n)*\n  deeplab_resnest50_ade-\w+.zip loads into "
    ) as caught:
        build_model("deeplab_resnest50_ade", width=16)
    assert str(caught.value).endswith("model=deeplabv3_resnest50, with its 150 of ADE20K classes")


def test_offline_error_names_file_hash_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    address = "http://127.0.0.1:9/x-cd0a2569.pth"  # nobody listens on the discard port
    file = published.NETWORKS["deeplabv3_resnet50_coco"]._replace(address=address)
    monkeypatch.setitem(published.NETWORKS, "deeplabv3_resnet50_coco", file)
    place = tmp_path / "weights" / "x-cd0a2569.pth"
    with pytest.raises(OSError, match=rf"cannot download {address}: .*sha256 cd0a2569.*put it at {place}"):
        build_model("deeplabv3_resnet50_coco")


def test_unknown_weights_list_published_names():
    with pytest.raises(
        ValueError, match=r"weights=deeplab: neither a file nor a published network.* fcn_resnet101_coco$"
    ):
        build_model("deeplab")


def test_torchvision_addresses_and_sizes_are_current():
    enums = {
        "deeplabv3_resnet50_coco": theirs.DeepLabV3_ResNet50_Weights,
        "deeplabv3_resnet101_coco": theirs.DeepLabV3_ResNet101_Weights,
        "fcn_resnet50_coco": theirs.FCN_ResNet50_Weights,
        "fcn_resnet101_coco": theirs.FCN_ResNet101_Weights,
    }
    for name, weights in enums.items():
        entry, file = weights.DEFAULT.value, published.NETWORKS[name]
        assert (entry.url, entry.meta["_file_size"]) == (file.address, file.megabytes)
        assert f"-{file.hash}." in entry.url


@pytest.mark.parametrize("name", published.NETWORKS)
def test_weights_page_lists_every_published_network(name):
    file = published.NETWORKS[name]
    size = file.megabytes or "-"
    row = f"| `{name}` | {file.address} | {file.algorithm} {file.hash} | {size} | `{file.model}` |"
    assert row in PAGE


def test_weights_page_lists_every_classifier():
    for address in (*resnest.PUBLISHED.values(), *resnet.PUBLISHED.values()):
        folder, name = address.rsplit("/", 1)
        assert f"{folder}/ " in PAGE
        assert name.removesuffix(".pth").removeprefix("resnest50_fast_") in PAGE
