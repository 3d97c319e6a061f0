"""Examples without PyTorch, each in a process that cannot import torch."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import io
import os
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import cv2
import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import segkit
from conftest import ROOT, run_command, run_main

BARRED = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
BARRED += "runpy.run_path(sys.argv[0], run_name='__main__')"


def export_best(run, file, *words):
    best = f"checkpoint={run / 'best.pt'}"
    assert run_main("export_seg", best, f"output={file}", "images=1", *words) == 0
    return file


def encode(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def decode(content):
    return np.array(Image.open(io.BytesIO(content)))


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tiny_run, tmp_path_factory):
    """An ONNX file and a photograph."""
    folder = tmp_path_factory.mktemp("deploy")
    export_best(tiny_run, folder / "net.onnx")
    (folder / "photo.png").write_bytes(encode(noise(67, 71)))
    return folder


@pytest.mark.medium
@pytest.mark.slow
@pytest.mark.parametrize(("example", "name"), [("deploy_onnx", "net.onnx"), ("deploy_openvino", "net.xml")])
def test_deploy_examples_predict_like_segkit_without_torch(example, name, files, tiny_run, tmp_path):
    if name == "net.xml":
        export_best(tiny_run, files / name, "format=openvino")
    words = [files / name, files / "photo.png", tmp_path / "colors.png"]
    command = [sys.executable, "-c", BARRED, str(ROOT / "examples" / f"{example}.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    net = segkit.load(tiny_run / "best.pt")
    ids = net.predict(files / "photo.png")
    painted = decode((tmp_path / "colors.png").read_bytes())
    assert (painted == net.table.colors[ids]).all(2).mean() >= 0.9999
    shares = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert set(shares) == {net.table.names[k] for k in np.unique(ids)}


@pytest.fixture(scope="module")
def service(files):
    """The address of the service, with small limits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--max-bytes=20000", "--max-pixels=10000", "--threads=1", "--max-waiting=2", "--max-batch=2"]
    limits += ["--max-seconds=2", "--max-connections=20"]
    words = [str(ROOT / "examples" / "serve.py"), str(files / "net.onnx"), "--port", str(port), *limits]
    log = (files / "serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", BARRED, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            httpx2.get(address)
            break
        except httpx2.TransportError:
            assert process.poll() is None
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(20)
    log.close()
    assert (files / "serve.log").read_text() == ""  # whatever clients do


@pytest.mark.medium
def test_service_predicts_like_segkit(service, files, tiny_run):
    stored = (files / "photo.png").read_bytes()
    answer = httpx2.post(f"{service}/predict", content=stored, timeout=60)
    assert answer.headers["content-type"] == "image/png"
    net = segkit.load(tiny_run / "best.pt")
    expected = net.predict(files / "photo.png")
    assert (decode(answer.content) == expected).mean() >= 0.9999
    answer = httpx2.post(f"{service}/predict?as=colors", content=stored, timeout=60)
    assert (decode(answer.content) == net.table.colors[expected]).all(2).mean() >= 0.9999
    assert httpx2.get(service).json()["names"] == net.table.names


@pytest.mark.medium
@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("predict", b"", 400, "the body is empty"),
        ("predict", encode(np.zeros((101, 100, 3))), 413, "100x101 are more than 10000 pixels"),
        ("predict", encode(noise(99, 99)), 413, "the body is larger than 20000 bytes"),
        ("predict?as=jpeg", encode(noise(9, 9)), 400, "as=jpeg: give ids or colors"),
        ("nowhere", b"", 404, "Not Found"),
    ],
)
def test_service_errors_are_json(service, path, content, status, words):
    answer = httpx2.post(f"{service}/{path}", content=content, timeout=60)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def connect(service):
    """A bare connection to the service."""
    host, port = service.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


HEAD = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n"


@pytest.mark.medium
def test_client_that_disconnects_is_ignored(service):
    for part in (b"", b"POST /pre", HEAD + b"x" * 50):
        with connect(service) as client:
            client.sendall(part)
    assert httpx2.get(service).status_code == 200


@pytest.mark.medium
def test_slow_client_times_out(service):
    started = time.monotonic()
    with connect(service) as silent, connect(service) as slow_head, connect(service) as slow_body:
        slow_head.sendall(b"POST /predict HTTP/1.1\r\nhost:")
        slow_body.sendall(HEAD + b"x")
        answer = b"".join(iter(lambda: slow_body.recv(1000), b""))
        assert b" 408 " in answer.splitlines()[0]
        assert b"more than 2 s" in answer
        for client in (silent, slow_head):
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1000) == b""
    assert time.monotonic() - started < 30


@pytest.mark.medium
def test_connections_beyond_the_limit_get_503(service):
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(connect(service))
        assert httpx2.get(service, timeout=20).status_code == 503
    time.sleep(0.2)
    assert httpx2.get(service, timeout=20).status_code == 200


@pytest.mark.medium
def test_concurrent_requests_are_correct_or_rejected(service, tiny_run):
    net = segkit.load(tiny_run / "best.pt")
    images = [encode(noise(40 + i % 3, 60)) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda image: httpx2.post(f"{service}/predict", content=image, timeout=60), images)
        )
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 200 for answer in answers)
    for image, answer in zip(images, answers, strict=True):
        if answer.status_code == 503:
            assert "too many images are waiting" in answer.json()["error"]
        else:
            assert (decode(answer.content) == net.predict(image)).mean() >= 0.999


class FakeNetwork(NamedTuple):
    """Gives every pixel the class 300."""

    size: list[int] | None = None
    metadata: dict = {"names": ["one"]}  # noqa: RUF012
    colors: np.ndarray = np.arange(999, dtype=np.uint8).reshape(333, 3)

    def run(self, images):
        return np.full((len(images), *images[0].shape[:2]), 300, np.int16)


@pytest.fixture
def client(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    serve = importlib.import_module("serve")
    limits = serve.Limits(10**6, 10**5, 4, 2, 10, 9)
    with TestClient(serve.make_app(FakeNetwork(), limits), raise_server_exceptions=False) as client:
        yield client


def test_ids_above_255_keep_their_value(client):
    ids = decode(client.post("/predict", content=encode(noise(5, 7))).content)
    assert ids.dtype == np.uint16
    assert (ids == 300).all()
    colors = decode(client.post("/predict?as=colors", content=encode(noise(5, 7))).content)
    assert (colors == np.arange(900, 903).astype(np.uint8)).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged_images_get_400(client, suffix):
    draw = np.random.default_rng(0)
    whole = np.frombuffer(encode(noise(24, 24), suffix), np.uint8)
    statuses = set()
    for _ in range(500):
        content = whole.copy()
        content[draw.integers(0, len(whole), draw.integers(1, 9))] = draw.integers(0, 256)
        if draw.random() < 0.3:
            content = content[: draw.integers(0, len(whole))]
        statuses.add(client.post("/predict", content=content.tobytes()).status_code)
    assert 400 in statuses
    assert statuses <= {200, 400, 413}


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "RGB;16"])
def test_images_with_alpha_or_16_bits_are_rejected(client, mode):
    stored = io.BytesIO(encode(np.zeros((8, 8, 3), np.uint16)))
    if mode != "RGB;16":
        stored = io.BytesIO()
        Image.new(mode, (8, 8)).save(stored, "JPEG" if mode == "CMYK" else "PNG")
    answer = client.post("/predict", content=stored.getvalue())
    assert answer.status_code == 400
    assert "8-bit RGB or gray" in answer.json()["error"]


@pytest.mark.medium
@pytest.mark.slow
def test_service_rejects_logits_file(tiny_run, tmp_path):
    path = export_best(tiny_run, tmp_path / "logits.onnx", "interface=logits")
    done = run_command("examples/serve.py", path, status=1)
    assert "not written by export_seg.py with interface=ids" in done.stderr
