"""Published networks by name: fetched, verified, loaded, and named in the documentation."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import threading
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights

from segkit.models import published, segmenter
from segkit.models.backbones import resnest, resnet

PAGE = (Path(__file__).parent.parent / "docs" / "weights.md").read_text(encoding="utf-8")
NAME = "deeplabv3_resnet50_coco"


def build_model(weights=None, width=8):
    backbone = {"name": "resnest", "variant": "14", "width": 8}
    head = {"name": "deeplabv3", "width": width}
    return segmenter.build(7, backbone=backbone, head=head, weights=weights)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A network with the name of a published one on a server, and its place in the cache."""
    original, folder = build_model(), tmp_path / "store"
    folder.mkdir()
    torch.save(original.state_dict(), folder / "x")
    digits = hashlib.sha256((folder / "x").read_bytes()).hexdigest()[:8]
    (folder / "x").rename(folder / f"{NAME}-{digits}.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(published, "TORCHVISION", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(published.NETWORKS, NAME, published.NETWORKS[NAME]._replace(digits=digits))
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    yield original, tmp_path / "cache" / "weights" / f"{NAME}-{digits}.pth"
    server.shutdown()
    server.server_close()


def test_published_network_is_downloaded_and_verified(store):
    original, place = store
    loaded = build_model(NAME).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.state_dict().items())
    place.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"delete the file and try again; it has the sha256"):
        build_model(NAME)


def test_mismatch_names_the_published_model(store):
    with pytest.raises(ValueError, match=rf"\n  {NAME}-\w+.pth loads into model=deeplabv3_resnet50 "):
        build_model(NAME, width=16)


def test_offline_error_names_file_hash_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(published, "ENCODING", "http://127.0.0.1:9/")  # nobody listens on the discard port
    place = tmp_path / "weights" / "fcn_resnest50_ade-4aba491a.zip"
    with pytest.raises(OSError, match=rf"cannot download .*sha1 4aba491a.*put it at {place}"):
        build_model("fcn_resnest50_ade")


def test_unknown_weights_list_published_names():
    message = r"weights=deeplab: neither a file nor a published network.* fcn_resnet101_coco$"
    with pytest.raises(ValueError, match=message):
        build_model("deeplab")


def test_torchvision_addresses_and_sizes_are_current():
    for name in published.NETWORKS:
        if name.endswith("_coco"):
            entry = get_model_weights(name.removesuffix("_coco")).DEFAULT.value
            assert entry.url == published.network_address(name)
            assert f"| {entry.url} | {entry.meta['_file_size']} |" in PAGE


@pytest.mark.parametrize("name", published.NETWORKS)
def test_weights_page_lists_every_published_network(name):
    settings = re.escape(published.NETWORKS[name].settings)
    row = rf"\| `{name}` \| {re.escape(published.network_address(name))} \| [\d.-]+ \| `{settings}` \|"
    assert re.search(row, PAGE)


def test_weights_page_lists_every_classifier():
    for address in (*resnest.PUBLISHED.values(), *resnet.PUBLISHED.values()):
        folder, name = address.rsplit("/", 1)
        assert f"{folder}/ " in PAGE
        assert name.removesuffix(".pth").removeprefix("resnest50_fast_") in PAGE
