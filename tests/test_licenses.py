"""The license ledger: its content, and that checkpoints and exported files carry it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segkit import checkpoint, export, licenses
from segkit.config.cli import read_checkpoint_settings
from segkit.config.compose import compose_settings
from segkit.data.label_map import load_builtin_label_map
from segkit.export import build_metadata
from segkit.inference import Protocol, predictor

SCRATCH = "none, trained from scratch"


def model(weights=None, name="resnest", variant="50", whole=None):
    return {"weights": whole, "backbone": {"name": name, "variant": variant, "weights": weights}}


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (model(), SCRATCH),
        (model("imagenet"), "ImageNet weights of ResNeSt (github.com/zhanghang1989/ResNeSt): Apache-2.0"),
        (model("imagenet", "resnet"), "ImageNet weights of torchvision: BSD-3-Clause"),
        (model("imagenet", "mine"), "ImageNet weights of mine: not stated"),
        (model("/home/me/secret/x.pth"), "x.pth: not stated"),
        (model("imagenet", whole="/home/me/secret/y.pth"), "y.pth: not stated"),
    ],
)
def test_ledger_names_pretrained_weights_without_paths(settings, weights):
    ledger = licenses.build_ledger({"model": settings, "data": {"name": "shapes"}})
    assert ledger == {"code": "segkit, MIT", "pretrained weights": weights, "data": "drawn by segkit, MIT"}


def test_ledger_takes_license_of_timm_weights():
    timm = pytest.importorskip("timm")
    ledger = licenses.build_ledger({"model": model("imagenet", "timm", "convnext_tiny"), "data": {}})
    published = timm.get_pretrained_cfg("convnext_tiny")
    assert ledger["pretrained weights"].endswith(f"{published.hf_hub_id}: {published.license}")
    assert ledger["data"] == "data: not stated"


def test_fine_tuning_keeps_the_license_of_shared_weights():
    settings = {"model": model(whole="hf://user/tiny"), "data": {}}
    ledger = licenses.build_ledger(settings, {"weights": "mit", "data": "mine"})
    assert ledger["pretrained weights"] == (
        "tiny, a network of segkit (weights: mit; pretrained weights: not stated; data: mine)"
    )


def test_every_built_in_data_set_has_a_license():
    tables = (Path(licenses.__file__).parent / "data/tables").glob("*.csv")
    assert {file.stem for file in tables} == licenses.DATA.keys()


@pytest.mark.medium
def test_checkpoint_carries_its_ledger_and_fine_tuning_continues_it(tiny_run, tmp_path):
    stored = checkpoint.read_checkpoint(tiny_run / "best.pt")["licenses"]
    assert stored["pretrained weights"] == SCRATCH
    words = ["data=shapes", "model=deeplabv3_demo", "run_name=x", f"model.weights={tiny_run}/best.pt"]
    settings = compose_settings("train", words)
    about = checkpoint.describe_training(settings, load_builtin_label_map("shapes"))
    assert about["licenses"]["pretrained weights"] == (
        "best.pt, a network of segkit (pretrained weights: none, trained from scratch; "
        "data: drawn by segkit, MIT)"
    )
    resumed = checkpoint.Checkpoints(tiny_run, checkpoint.CheckpointConfig(), about)
    resumed.load_newest()  # a resumed run keeps what it has stored
    assert resumed.about["licenses"] == stored


@pytest.mark.medium
def test_exported_file_carries_the_ledger(tiny_run):
    words = [f"checkpoint={tiny_run}/best.pt"]
    settings = compose_settings("export", words, stored=read_checkpoint_settings)
    trained = predictor.load_model(settings, torch.device("cpu"))
    about = build_metadata(trained, export.ExportKind("onnx", "ids", None, "float32"), settings, Protocol())
    assert about["licenses"] == checkpoint.read_checkpoint(tiny_run / "best.pt")["licenses"]
