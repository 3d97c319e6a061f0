"""Downloads against a local server: complete, truncated, refused."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from segkit.models.backbones import resnest
from segkit.runtime import download

BODY = bytes(range(256)) * 9000  # 2.3 MB: more than one chunk
SHA256 = hashlib.sha256(BODY).hexdigest()
SHA1 = hashlib.sha1(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/good.bin, /truncated.bin (announces more than it sends at first), anything else is 404."""

    def do_GET(self):
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        first = self.path == "/truncated.bin" and len(self.server.requests) == 1
        self.wfile.write(body[: 1_500_000 if first else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.files = dict.fromkeys(("/good.bin", "/truncated.bin"), BODY)
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("known", ["", f"sha256:{SHA256[:8]}", f"sha1:{SHA1[:8].upper()}"])
def test_file_is_downloaded_once(server, tmp_path, known):
    target = tmp_path / "folder" / "good.bin"
    for _ in range(2):
        assert download.fetch(f"{server.address}/good.bin", target, digest=known) == target
    assert target.read_bytes() == BODY
    assert len(server.requests) == 1
    assert not list(target.parent.glob("*.part"))


def test_wrong_hash_is_an_error_and_leaves_no_file(server, tmp_path):
    message = rf"good.bin: try again, .* put .* at .*; the file has the sha256 {SHA256[:8]} and not 0{{8}}$"
    with pytest.raises(ValueError, match=message):
        download.fetch(f"{server.address}/good.bin", tmp_path / "good.bin", digest="sha256:00000000")
    assert [p.name for p in tmp_path.iterdir()] == ["good.bin.lock"]


def test_existing_file_is_verified_and_kept(server, tmp_path):
    target = tmp_path / "good.bin"
    target.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"good.bin: delete the file and try again; it has .* not {SHA256}"):
        download.fetch(f"{server.address}/good.bin", target, digest=f"sha256:{SHA256}")
    assert target.read_bytes() == b"half a file"
    assert server.requests == []


def test_truncated_download_leaves_no_file(server, tmp_path):
    target, url = tmp_path / "x.bin", f"{server.address}/truncated.bin"
    with pytest.raises(OSError, match=r"ended after 1500000 of 2304000 bytes; try again, or fetch"):
        download.fetch(url, target)
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin.lock"]
    assert download.fetch(url, target).read_bytes() == BODY


def test_partial_file_of_a_killed_download_is_removed(server, tmp_path):
    (tmp_path / "x.bin.123.part").write_bytes(BODY[:1000])
    download.fetch(f"{server.address}/good.bin", tmp_path / "x.bin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.bin.lock"]


def test_unwritable_cache_is_named_unless_it_has_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    (tmp_path / "good.bin").write_bytes(BODY)
    (tmp_path / "file").touch()  # root may write to every folder, but not below a file

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied", "lock")

    monkeypatch.setattr(download.FileLock, "acquire", deny)
    assert download.fetch(f"{server.address}/good.bin", tmp_path / "good.bin", digest=f"sha256:{SHA256}")
    for target, reason in [("x.bin", "Permission denied"), ("file/x.bin", "Not a directory|File exists")]:
        message = (
            rf"cannot be written \(({reason})\); set SEGKIT_CACHE to another folder, or fetch .* put it at"
        )
        with pytest.raises(OSError, match=message):
            download.fetch(f"{server.address}/good.bin", tmp_path / target)


def test_failed_download_explains_manual_download(server, tmp_path):
    target = tmp_path / "x.bin"
    message = rf"nope.bin: the server answers 404 Not Found; .* \(sha256 {SHA256[:8]}\) .* at {target}"
    with pytest.raises(OSError, match=message):
        download.fetch(f"{server.address}/nope.bin", target, digest=f"sha256:{SHA256[:8]}")
    url = "http://127.0.0.1:9/x"
    with pytest.raises(OSError, match=rf"cannot download {url}: .*Connection refused.* put it at {target}"):
        download.fetch(url, target)


def test_published_weights_are_downloaded_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    classifier = resnest.build(10, variant="14", width=8)
    torch.save(classifier.state_dict(), tmp_path / "x.pth")
    body = (tmp_path / "x.pth").read_bytes()
    name = f"resnest14-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    server.files[f"/{name}"] = body
    monkeypatch.setitem(resnest.PUBLISHED, "14", f"{server.address}/{name}")
    for _ in range(2):
        network = resnest.build(variant="14", width=8, weights="imagenet")
        assert torch.equal(network.layer4[0].conv3.weight, classifier.layer4[0].conv3.weight)
    assert len(server.requests) == 1
    assert (tmp_path / "cache" / "weights" / name).read_bytes() == body
    network = resnest.build(10, variant="14", width=8, weights=f"{server.address}/{name}")
    assert torch.equal(network.fc.weight, classifier.fc.weight)


def test_parallel_downloads_request_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = pool.map(lambda _: download.fetch(f"{server.address}/good.bin", tmp_path / "x"), range(4))
        assert all(path.read_bytes() == BODY for path in paths)
    assert len(server.requests) == 1


def test_resolve_source_returns_local_files(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    here = tmp_path / "a file.bin"
    here.write_bytes(b"x")
    assert download.resolve_source(str(here)) == here
    assert download.resolve_source(here.as_uri()) == here
    fetched = download.resolve_source(f"{server.address}/good.bin")
    assert fetched.read_bytes() == BODY
    assert fetched.is_relative_to(tmp_path / "cache")
    assert fetched.name == "good.bin"
    with pytest.raises(ValueError, match=r"nowhere/x.pth: there is no such file"):
        download.resolve_source("nowhere/x.pth")
    with pytest.raises(ValueError, match="starts with file://, http:// or https"):
        download.resolve_source("s3://b/x.pth")
