"""Shared networks: the folder, its model card, and loading from and uploading to a Hub."""

from __future__ import annotations

import http.server
import json
import math
import runpy
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, hub_mixin
from safetensors.torch import load_file, save_file

import segkit
from conftest import run_command
from segkit import checkpoint
from segkit.runtime import model_file
from segkit.tools import share
from segkit.visualize import overlays


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a.png"
    return overlays.save_image(path, np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory, photo):
    out = tmp_path_factory.mktemp("shared") / "tiny"
    message = share.main([str(tiny_run / "best.pt"), str(out), "--license", "mit", "--preview", str(photo)])
    assert message == f"Saved the network and its model card in {out}.\n"
    return out


def assert_same_network(one, other):
    (tensors, metadata), (others, other_metadata) = (
        model_file.read_model_file(path / "model.safetensors") for path in (one, other)
    )
    assert metadata == other_metadata == json.loads((one / "config.json").read_text(encoding="utf-8"))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.mark.medium
def test_shared_network_predicts_as_the_checkpoint(tiny_run, folder, photo):
    original, shared = segkit.load(tiny_run / "best.pt"), segkit.load(folder)
    np.testing.assert_array_equal(original.predict(photo), shared.predict(photo))
    assert shared.table == original.table


@pytest.mark.medium
def test_shared_folder_has_weights_settings_scores_and_licenses_without_local_paths(tiny_run, folder):
    files = {path.name for path in folder.iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md", "preview.png"}
    best = checkpoint.read_checkpoint(tiny_run / "best.pt")
    tensors, header = (
        load_file(folder / "model.safetensors"),
        json.loads((folder / "config.json").read_text()),
    )
    assert tensors.keys() == best["model"].keys()
    assert all(torch.equal(tensors[name], best["model"][name]) for name in tensors)
    assert header == model_file.read_model_file(folder / "model.safetensors")[1]
    assert (header["scores"], header["iteration"]) == (best["scores"], best["iteration"])
    assert header["licenses"] == {**best["licenses"], "weights": "mit"}
    assert [entry[1] for entry in header["classes"]["entries"]] == [e[1] for e in best["classes"]["entries"]]
    assert header["settings"]["model"]["head"] == best["settings"]["model"]["head"]
    for name in ("model.safetensors", "config.json", "README.md"):
        assert str(tiny_run.parent) not in (folder / name).read_bytes().decode("latin1")


def test_local_paths_are_removed_from_settings():
    settings = {"root": "/home/me/data", "lists": ["train.txt", "~/x"], "deep": {"file": "file:///x", "n": 1}}
    settings["transforms"] = [{"name": "FDA", "images": ["/home/me/a.png"]}]
    assert share.strip_local_paths({**settings, "size": (3, 4), "name": "a/b"}) == {
        "deep": {"n": 1},
        "transforms": [{"name": "FDA"}],
        "size": [3, 4],
        "name": "a/b",
    }


@pytest.mark.medium
def test_model_card_has_metadata_scores_use_and_licenses(tiny_run, folder):
    card = ModelCard.load(folder / "README.md")
    score = checkpoint.read_checkpoint(tiny_run / "best.pt")["scores"]["mIoU"]
    assert (card.data.license, card.data.library_name) == ("mit", "segkit")
    assert card.data.pipeline_tag == "image-segmentation"
    metadata = yaml.safe_load(card.content.split("---")[1])
    results = metadata["model-index"][0]["results"]
    (miou,) = (m for result in results for m in result["metrics"] if m["name"] == "mIoU")
    assert (miou["type"], miou["value"]) == ("mean_iou", score)
    assert "validation in training, protocol whole (scales 1" in miou["config"]
    assert f"* mIoU {100 * score:.2f} % (validation in training, protocol whole (scales 1" in card.text
    assert "* data: drawn by segkit, MIT" in card.text
    assert "* pretrained weights: none, trained from scratch\n" in card.text
    assert 'segkit.load("tiny")' in card.text
    assert "](preview.png)" in card.text


@pytest.mark.medium
def test_test_results_beside_the_checkpoint_are_on_the_card(tiny_run, tmp_path):
    shutil.copy(tiny_run / "best.pt", tmp_path)
    (tmp_path / "test-encoding").mkdir()
    result = {"protocol": {"name": "encoding"}, "scores": {"mIoU": 0.4567, "fwIoU": None}, "images": 6}
    (tmp_path / "test-encoding" / "result.json").write_text(json.dumps(result))
    (tmp_path / "test-broken").mkdir()
    (tmp_path / "test-broken" / "result.json").write_text("{")
    card = str(share.SharedModel(tmp_path / "best.pt").generate_model_card())
    assert "* mIoU 45.67 % (test on 6 images, protocol encoding)\n" in card
    assert "preview.png" not in card


@pytest.mark.medium
def test_shared_network_keeps_results_and_license_when_reshared(folder, tmp_path):
    model = share.SharedModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "copy")
    assert_same_network(tmp_path / "copy", folder)
    assert ModelCard.load(tmp_path / "copy" / "README.md").data.license == "mit"


@pytest.mark.medium
def test_push_uploads_the_folder_to_the_hub(tiny_run, tmp_path, monkeypatch):
    calls = []

    class FakeHub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, **_):
            shutil.copytree(folder_path, tmp_path / "hub")
            return f"https://example.org/{repo_id}/commit/1"

    monkeypatch.setattr(hub_mixin, "HfApi", FakeHub)
    words = [str(tiny_run / "best.pt"), str(tmp_path / "out"), "--push", "user/tiny", "--private"]
    message = share.main(words)
    assert message.endswith("and uploaded both: https://example.org/user/tiny/commit/1\n")
    assert calls == [("user/tiny", True)]
    assert_same_network(tmp_path / "hub", tmp_path / "out")
    assert 'segkit.load("hf://user/tiny")' in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.medium
def test_failed_push_is_one_line_and_leaves_the_folder(tiny_run, tmp_path, monkeypatch):
    def refuse(token=None):
        raise RuntimeError("401 Unauthorized\nand a page of details")

    monkeypatch.setattr(hub_mixin, "HfApi", refuse)
    with pytest.raises(ValueError, match=r"^--push user/tiny: 401 Unauthorized\. .*out is complete\.$"):
        share.main([str(tiny_run / "best.pt"), str(tmp_path / "out"), "--push", "user/tiny"])
    assert segkit.load(tmp_path / "out").table.num_classes == 10


@pytest.mark.medium
def test_existing_network_and_missing_checkpoint_are_errors(folder, tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"has a model.safetensors already\. Give another folder"):
        share.main([str(tiny_run / "best.pt"), str(folder)])
    done = run_command("-m", "segkit.tools.share", tmp_path / "no.pt", tmp_path / "out", status=2)
    assert done.stderr == f"error: checkpoint={tmp_path}/no.pt: there is no such file\n"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"no model.safetensors in this folder. Give a file: "):
        segkit.load(tmp_path)


def test_nonfinite_scores_are_stored_as_null(tmp_path):
    path = tmp_path / "x.safetensors"
    scores = {"mIoU": 0.5, "pixAcc": math.nan, "loss": math.inf}
    model_file.write_model_file(path, {"a": torch.ones(2)}, {"scores": scores})
    tensors, metadata = model_file.read_model_file(path)
    assert torch.equal(tensors["a"], torch.ones(2))
    assert metadata["scores"] == {"mIoU": 0.5, "pixAcc": None, "loss": None}


@pytest.mark.medium
def test_damaged_and_foreign_files_are_one_line_errors(folder, tmp_path):
    content = (folder / "model.safetensors").read_bytes()
    for name, damaged in (("cut", content[:5000]), ("empty", b""), ("text", b"hello, world, how are you")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name}.safetensors: damaged, or not a safetensors") as caught:
            segkit.load(path)
        assert "\n" not in str(caught.value)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not a checkpoint of segkit; weights of other projects load with"):
        segkit.load(tmp_path)


@pytest.mark.medium
def test_loading_without_the_hub_extra_names_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for source, package in ((folder, "safetensors"), ("hf://user/name", "huggingface_hub")):
        with pytest.raises(
            ValueError, match=rf": {package} is not installed \(.*\). Run pip install 'segkit\[hub\]'$"
        ):
            segkit.load(source)


def test_sharing_without_the_hub_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "segkit.tools.share")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("segkit.tools.share", run_name="__main__")
    message = "segkit.tools.share: huggingface_hub is not installed. Run pip install 'segkit[hub]'"
    assert end.value.code == message


def test_malformed_hub_address_is_an_error():
    for address in ("hf://user", "hf:user/name", "hf://a/b/c", "hf://a/b@"):
        with pytest.raises(ValueError, match=r"an address of the Hub is hf://USER/NAME or hf://USER/NAME@"):
            segkit.load(address)


@pytest.fixture
def hub(folder):
    """Serve one repository, with one revision, as the Hub does."""
    requests = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(self.path)
            file = folder / self.path.rsplit("/", 1)[-1]
            exists = self.path.startswith(("/user/tiny/resolve/main/", "/user/tiny/resolve/v1/"))
            content = file.read_bytes() if exists and file.is_file() else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{file.name}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD  # noqa: N815 - the name that http.server calls

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.mark.medium
def test_hub_address_predicts_downloading_the_model_file_only(hub, folder, photo, tmp_path, monkeypatch):
    endpoint, requests = hub
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    words = ["predict_seg.py", "checkpoint=hf://user/tiny", f"input={photo}", "save=[ids]"]
    run_command(*words, f"output={tmp_path / 'out'}")
    (ids,) = (tmp_path / "out").rglob("*.png")
    np.testing.assert_array_equal(
        cv2.imread(str(ids), cv2.IMREAD_UNCHANGED), segkit.load(folder).predict(photo)
    )
    files = {path.rsplit("/", 1)[-1] for path in requests if path.startswith("/user/")}
    assert files == {"model.safetensors"}  # and nothing that could be a pickle
    code = """
import segkit
from segkit.tools.share import SharedModel
print(segkit.load('hf://user/tiny@v1').table.num_classes)
print(SharedModel.from_pretrained('user/tiny', revision='v1').licenses['weights'])
try: segkit.load('hf://user/other')
except OSError as error: print(error)
"""
    classes, license, error = run_command("-c", code).stdout.splitlines()
    assert (classes, license) == ("10", "mit")
    assert error.startswith("cannot download model.safetensors of user/other (")
    assert error.endswith("give its folder: checkpoint=FOLDER")


@pytest.mark.medium
def test_shared_folder_scores_as_the_checkpoint(tiny_run, folder, run_here, tmp_path):
    results = []
    for source in (tiny_run / "best.pt", folder):
        words = [f"checkpoint={source}", f"output={tmp_path / source.name}", "loader.workers=0"]
        assert run_here("test_seg", *words) == 0
        results.append(json.loads((tmp_path / source.name / "result.json").read_text()))
    for key in ("scores", "weights_sha256"):
        assert results[0][key] == results[1][key]


def test_results_of_a_hub_address_are_in_runs():
    assert model_file.output_folder_for("hf://user/name@v1") == Path("runs/user--name")
    assert model_file.output_folder_for("runs/x/best.pt") == Path("runs/x")
