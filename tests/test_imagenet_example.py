"""Top-1 of a classifier over a folder of classes, against a transcription with torchvision's transforms."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

import originals
from segkit.config import registry

FILE = Path(__file__).parent.parent / "examples" / "imagenet_top1.py"
EXAMPLE = runpy.run_path(str(FILE))
SETTINGS = {"name": "resnest", "variant": "14", "width": 8, "output_stride": 32}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def authors_crop(image, size):
    """That of the authors' script: a centered float square, rounded where PIL rounds it, then a resize."""
    width, height = image.size
    side = float(size) / (size + 32) * min(width, height)
    top, left = int(round((height - side) / 2.0)), int(round((width - side) / 2.0))  # noqa: RUF046
    square = image.crop((left, top, left + side, top + side))
    return transforms.Resize((size, size), interpolation=InterpolationMode.BICUBIC)(square)


def torchvisions(image, size):
    resize = transforms.Resize(int(size / 0.875), interpolation=InterpolationMode.BILINEAR)
    return transforms.CenterCrop(size)(resize(image))


@pytest.fixture(scope="module")
def drawn_images(tmp_path_factory):
    """A folder of four classes, sizes of every kind, gray and transparent ones among them; and weights."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        height, width = draw.integers(60, 200, 2)
        pixels = draw.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        folder = root / f"class{i % 4}"
        folder.mkdir(exist_ok=True)
        image.convert(("RGB", "L", "RGBA")[i % 3]).save(folder / f"{i}.png")
    (root / "class0" / "notes.txt").write_text("not an image")
    torch.manual_seed(0)
    network = originals.randomize(registry.build("models.backbones", SETTINGS, num_classes=4)).float()
    torch.save(network.state_dict(), root.parent / "weights.pth")
    return root, network.eval(), root.parent / "weights.pth"


@pytest.mark.parametrize(("way", "plain"), [("resnest", authors_crop), ("torchvision", torchvisions)])
@pytest.mark.parametrize("crop", [64, 75])
def test_imagenet_images_equal_reference_transforms(drawn_images, way, plain, crop):
    folder = EXAMPLE["Folder"](drawn_images[0], crop, way)
    assert len(folder) == 24
    for index, (file, _) in enumerate(folder.files):
        expected = np.asarray(plain(Image.open(file).convert("RGB"), crop))
        assert np.array_equal(folder[index][0].transpose(1, 2, 0), expected)


@pytest.mark.medium
@pytest.mark.slow
def test_imagenet_command_equals_plain_loop(drawn_images):
    root, network, weights = drawn_images
    ready = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    hits = images = 0
    for number, folder in enumerate(sorted(root.iterdir())):
        for file in folder.glob("*.png"):
            with torch.inference_mode():
                image = ready(authors_crop(Image.open(file).convert("RGB"), 64))
                hits += int(network.classify(image[None]).argmax() == number)
            images += 1
    command = [sys.executable, str(FILE), "--root", str(root), "--crop", "64", "--workers", "0"]
    command += ["--device", "cpu", "--batch-size", "7", f"model.backbone.weights={weights}"]
    command += ["model/backbone=resnest", "model.backbone.variant=14", "model.backbone.width=8"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=kept, cwd=root, timeout=300, check=True
    )
    assert done.stdout == (
        f"resnest 14: top-1 {hits / images:.2%}, top-5 100.00% of 24 images (crop 64, resnest's resizing)\n"
    )
    assert 0 < hits < images
