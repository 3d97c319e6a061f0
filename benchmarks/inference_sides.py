"""Prediction from an image to class ids by segkit, by other runtimes on its exports, and by other toolkits.

Weights are random, as time does not depend on them; the ranges of int8 are from noise. The result is class
ids at the size of the image, of the full image at one scale, or of six scales with flips.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from segkit import export
from segkit.data.label_map import Entry, LabelMap
from segkit.export import verification
from segkit.inference import Protocol, predict, prepare
from segkit.models import segmenter

CLASSES = 150
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
FILES = ("onnx", "onnx_int8", "openvino", "openvino_bf16", "openvino_int8")
OURS = ("eager", "prepared", "bf16", "compiled", "compiled_bf16", *FILES)
PEERS = ("plain_loop", "smp", "smp_bf16", "torchvision", "torchvision_bf16")
PredictFunction = Callable[[np.ndarray, bool], Any]  # (image (H, W, 3), six scales and flips) -> class ids


def build_network(variant: str) -> segmenter.Segmenter:
    """Build DeepLabV3 on ResNeSt at output stride 8, with random weights."""
    torch.manual_seed(0)
    backbone = {"name": "resnest", "variant": variant, "output_stride": 8}
    return segmenter.build(CLASSES, backbone=backbone, head={"name": "deeplabv3"}).eval()


def parse_size(size: str) -> tuple[int, int]:
    """Return height and width of a size such as ``512x683``."""
    height, width = (int(part) for part in size.split("x"))
    return height, width


def make_image(size: tuple[int, int]) -> np.ndarray:
    """Return an image (H, W, 3) of smooth noise."""
    cells = max(1, size[0] // 16), max(1, size[1] // 16)
    noise = np.random.default_rng(0).integers(0, 256, (*cells, 3), np.uint8)
    return verification.resize_image(noise, size)


class Peer:
    """Network of another toolkit: normalize, run, resize if necessary, argmax."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], *, bf16: bool = False) -> None:
        self.run, self.bf16 = run, bf16

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, flips: bool) -> torch.Tensor:
        """Predict class ids (1, H, W) of an image (H, W, 3)."""
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).sub(0.45).div(0.225)
        x = x.to(memory_format=torch.channels_last)
        if not flips:
            return self.logits(x).argmax(1)
        scores: Any = 0
        for scale in SCALES:  # as test-time augmentation of the peers: softmax of each view at full size
            y = F.interpolate(x, scale_factor=scale, mode="bilinear") if scale != 1 else x
            for mirrored in (False, True):
                logits = self.logits(y.flip(3) if mirrored else y)
                logits = F.interpolate(logits, x.shape[2:], mode="bilinear")
                scores = scores + (logits.flip(3) if mirrored else logits).softmax(1)
        return scores.argmax(1)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a normalized batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.run(x).float()


def smp(variant: str, *, bf16: bool) -> Peer:
    """Build DeepLabV3 of segmentation_models.pytorch on timm's ResNeSt, channels last."""
    import segmentation_models_pytorch as models

    encoder = f"tu-resnest{variant}{'e' if variant == '101' else 'd'}"
    model: Any = models.DeepLabV3(encoder, encoder_weights=None, classes=CLASSES).eval()
    model = model.to(memory_format=torch.channels_last)

    def run(x: torch.Tensor) -> torch.Tensor:
        pad = (-x.shape[3] % 8, -x.shape[2] % 8)  # it takes multiples of its stride only
        return model(F.pad(x, (0, pad[0], 0, pad[1])))[:, :, : x.shape[2], : x.shape[3]]

    return Peer(run, bf16=bf16)


def torchvision(*, bf16: bool) -> Peer:
    """Build torchvision's DeepLabV3 on ResNet-101, another network, channels last."""
    from torchvision.models.segmentation import deeplabv3_resnet101

    model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    model = model.to(memory_format=torch.channels_last)
    return Peer(lambda x: model(x)["out"], bf16=bf16)


def exported_file(name: str, variant: str, folder: Path) -> tuple[export.ExportKind, Path]:
    """Return the kind and path of the exported file of a side."""
    format: Any = name.split("_")[0]
    precision: Any = "int8" if "int8" in name else "fp32"
    kind = export.ExportKind(format, "logits", precision=precision)
    return kind, folder / f"{variant}-{precision}{export.FORMATS[format]}"


def make_classes() -> dict[str, Any]:
    """Return a class table for the metadata of an exported file."""
    rows = [Entry(number, f"class {number}", (number, 0, 0)) for number in range(CLASSES)]
    return LabelMap("numbers", tuple(rows)).to_plain()


def write_file(name: str, variant: str, folder: Path) -> None:
    """Export the file of a side, if it does not exist."""
    kind, path = exported_file(name, variant, folder)
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = build_network(variant)
    about = {"interface": kind.interface, "image_size": kind.image_size, "precision": kind.precision}
    about |= {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    about |= {"align_corners": model.align_corners, "classes": make_classes(), "settings": {}}
    smaller = [verification.prepare_input(model, make_image((side, side)), kind) for side in (193, 257)]
    with export.export_atomically(model, path, kind, metadata=about, calibration=smaller):
        pass


def build_prepared_network(name: str, variant: str, folder: Path) -> Any:
    """Build a network of segkit for a side."""
    precision: Any = "bf16" if name.endswith("bf16") else "float32"
    if name in FILES:
        return prepare(
            export.load_exported(exported_file(name, variant, folder)[1], trust_code=True),
            precision=precision,
        )
    model = build_network(variant)
    if name == "eager":
        return model
    ready = prepare(model, precision=precision)
    if name.startswith("compiled"):  # once for each size
        ready.backbone, ready.head = (
            torch.compile(part, dynamic=False) for part in (ready.backbone, ready.head)
        )
    return ready


def make_predictor(name: str, given: argparse.Namespace) -> PredictFunction:
    """Return the prediction function of a side."""
    if name == "plain_loop":  # one view after the other, each at full size, as in PyTorch-Encoding
        model = build_network(given.variant)
        return Peer(lambda x: model(x).main)
    if name in PEERS:
        bf16 = name.endswith("bf16")
        return torchvision(bf16=bf16) if name.startswith("torchvision") else smp(given.variant, bf16=bf16)
    ready = build_prepared_network(name, given.variant, given.files)
    single, several = Protocol(), Protocol(scales=SCALES, flip=True)
    return lambda image, flips: predict(ready, image, several if flips else single)
