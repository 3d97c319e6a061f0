"""Networks given to others: the folder, its header and card, and the same from a hub."""

from __future__ import annotations

import http.server
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import segkit
from segkit import checkpoint
from segkit.runtime import model_file
from segkit.tools import share
from segkit.visualize import overlays

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a.png"
    return overlays.save(path, np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory, photo):
    out = tmp_path_factory.mktemp("shared") / "tiny"
    told = share.main([str(tiny_run / "best.pt"), str(out), "--license", "mit", "--preview", str(photo)])
    assert told == f"{out} holds the network, its card and its scores\n"
    return out


def test_a_shared_network_predicts_what_the_run_does(tiny_run, folder, photo):
    own, given = segkit.load(tiny_run / "best.pt"), segkit.load(folder)
    np.testing.assert_array_equal(own.predict(photo), given.predict(photo))
    assert given.table == own.table
    ours = own.network.state_dict()
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == ours.keys()
    assert all(torch.equal(stored[name], ours[name]) for name in stored)


def test_the_header_tells_settings_classes_and_scores_and_no_place(tiny_run, folder):
    best = checkpoint.read_checkpoint(tiny_run / "best.pt")
    with safe_open(folder / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["segkit"])
    assert about["scores"] == best["scores"]
    assert about["iteration"] == best["iteration"]
    assert about["licenses"] == best["licenses"]
    assert [entry[1] for entry in about["classes"]["entries"]] == [e[1] for e in best["classes"]["entries"]]
    assert about["settings"]["model"]["head"] == best["settings"]["model"]["head"]
    assert str(tiny_run.parent) not in (folder / "model.safetensors").read_bytes().decode("latin1")
    assert str(tiny_run.parent) not in (folder / "README.md").read_text()


def test_settings_lose_what_names_places():
    given = {"root": "/home/me/data", "lists": ["train.txt", "~/x"], "deep": {"file": "file:///x", "n": 1}}
    assert share.strip_local_paths({**given, "size": (3, 4), "name": "a/b"}) == {
        "deep": {"n": 1},
        "size": [3, 4],
        "name": "a/b",
    }


def test_the_card_has_scores_protocol_license_and_use(tiny_run, folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    score = checkpoint.read_checkpoint(tiny_run / "best.pt")["scores"]["mIoU"]
    assert card.startswith("---\nlicense: mit\nlibrary_name: segkit\npipeline_tag: image-segmentation\n")
    assert "validation in training, whole (scales 1" in card
    assert f"mIoU {100 * score:.2f} %" in card
    assert "of the data they were trained on: drawn by segkit, MIT" in card
    assert "of the weights that training started from: none, trained from scratch" in card
    assert 'segkit.load("tiny")' in card
    assert "](preview.png)" in card
    assert (folder / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_tests_beside_the_checkpoint_are_on_the_card(tiny_run, tmp_path):
    shutil.copy(tiny_run / "best.pt", tmp_path)
    (tmp_path / "test-encoding").mkdir()
    result = {"protocol": {"name": "encoding"}, "scores": {"mIoU": 0.4567, "fwIoU": None}, "images": 6}
    (tmp_path / "test-encoding" / "result.json").write_text(json.dumps(result))
    (tmp_path / "test-broken").mkdir()
    (tmp_path / "test-broken" / "result.json").write_text("{")
    card = (share.write(tmp_path / "best.pt", tmp_path / "out") / "README.md").read_text()
    assert "* test, 6 images, protocol `encoding` (test-encoding): mIoU 45.67 %\n" in card
    assert "preview.png" not in card


def test_nothing_is_overwritten_and_what_is_no_checkpoint_is_told(folder, tiny_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        share.main([str(tiny_run / "best.pt"), str(folder)])
    assert "holds a model.safetensors already; give another folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        share.main([str(tmp_path / "no.pt"), str(tmp_path / "out")])
    assert "no.pt: there is no such file" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"this folder holds no model.safetensors; give a file, such as"):
        segkit.load(tmp_path)


@pytest.mark.parametrize("scores", [{"mIoU": math.nan}, {"mIoU": 0.5, "loss": math.inf}])
def test_a_score_that_is_no_number_is_null(scores, tmp_path):
    model_file.write(
        tmp_path / "x.safetensors", {"a": torch.ones(2)[::1]}, {"scores": scores, "sizes": (1, 2)}
    )
    tensors, about = model_file.read_model_file(tmp_path / "x.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert about["scores"] == {k: v if math.isfinite(v) else None for k, v in scores.items()}


def test_damaged_and_foreign_files_are_told_in_one_line(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    for name, content in (("cut", whole[:5000]), ("empty", b""), ("text", b"hello, world, how are you")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.safetensors: damaged, or no safetensors file") as told:
            segkit.load(path)
        assert "\n" not in str(told.value)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not a checkpoint of segkit; weights of other projects load with"):
        segkit.load(tmp_path)


def test_the_extra_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for source in (folder, "hf://user/name"):
        with pytest.raises(ValueError, match=r"is missing \(.*\); pip install 'segkit\[share\]'$"):
            segkit.load(source)


@pytest.mark.parametrize("address", ["hf://user", "hf:user/name", "hf://a/b/c", "hf://a/b@"])
def test_what_is_no_address_is_told(address):
    with pytest.raises(ValueError, match=r"an address of the hub is hf://USER/NAME or hf://USER/NAME@REV"):
        segkit.load(address)


@pytest.fixture
def hub(folder):
    """A server that answers as the hub does, with one repository of one revision."""
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            file = folder / self.path.rsplit("/", 1)[-1]
            known = self.path.startswith(("/user/tiny/resolve/main/", "/user/tiny/resolve/v1/"))
            content = file.read_bytes() if known and file.is_file() else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD  # noqa: N815 - the name that http.server asks for

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_network_on_a_hub_is_predicted_with_and_loaded(hub, folder, photo, tmp_path):
    endpoint, asked = hub
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    words = ["predict_seg.py", "checkpoint=hf://user/tiny", f"input={photo}", "save=[ids]"]
    told = subprocess.run(
        [sys.executable, *words, f"output={tmp_path / 'out'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (ids,) = (tmp_path / "out").rglob("*.png")
    np.testing.assert_array_equal(
        cv2.imread(str(ids), cv2.IMREAD_UNCHANGED), segkit.load(folder).predict(photo)
    )
    files = {path.rsplit("/", 1)[-1] for path in asked if path.startswith("/user/")}
    assert files == {"model.safetensors"}  # and nothing that could be a pickle
    code = (
        "import segkit; print(segkit.load('hf://user/tiny@v1').table.num_classes)\n"
        "try: segkit.load('hf://user/other')\nexcept OSError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    first, second = told.stdout.splitlines()
    assert first == "10"
    assert second.startswith("cannot fetch model.safetensors of user/other (")
    assert second.endswith("give the folder that holds it, checkpoint=FOLDER")


def test_results_with_an_address_lie_in_a_folder_of_runs():
    assert model_file.output_folder_for("hf://user/name@v1") == Path("runs/user--name")
    assert model_file.output_folder_for("runs/x/best.pt") == Path("runs/x")


def test_the_shared_folder_is_scored_as_the_checkpoint(tiny_run, folder, run_here, tmp_path):
    for source, out in ((tiny_run / "best.pt", "a"), (folder, "b")):
        where = [f"checkpoint={source}", f"output={tmp_path / out}", "loader.workers=0"]
        assert run_here("test_seg", *where) == 0
    found = [json.loads((tmp_path / name / "result.json").read_text()) for name in "ab"]
    assert found[0]["scores"] == found[1]["scores"]
    assert found[0]["weights_sha256"] == found[1]["weights_sha256"]


def test_a_missing_checkpoint_is_told_by_the_command_and_nothing_is_written(tmp_path):
    command = [sys.executable, "-m", "segkit.tools.share", str(tmp_path / "none.pt"), str(tmp_path / "out")]
    missing = subprocess.run(command, capture_output=True, text=True, cwd=Path(share.__file__).parents[2])
    assert missing.returncode == 2
    assert "none.pt" in missing.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
