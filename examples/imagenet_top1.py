"""Evaluate a classifier on a folder of classes, with the crop and resizing of its authors.

    python examples/imagenet_top1.py --root DIR model/backbone=resnest

DIR has a folder for each class, such as ImageNet's ``val/n01440764/*.JPEG``; sorted, they have the order of
the weights. Settings of ``train_seg.py`` may follow; the default weights are the published ones. Published
top-1 of ResNeSt-50: 81.03 (docs/models.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit.config import registry
from segkit.config.compose import compose_settings
from segkit.runtime.errors import report_user_errors
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CROPS = {"101": 256, "200": 320, "269": 416}  # of ResNeSt, by variant; all others 224
Classified = Dataset[tuple[np.ndarray, int]]


def crop_resnest(image: Image.Image, crop: int) -> Image.Image:
    """Crop the center crop / (crop + 32) of the shorter side and resize it to crop x crop (bicubic)."""
    width, height = image.size
    side = crop / (crop + 32) * min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    box = tuple(round(edge) for edge in (left, top, left + side, top + side))
    return image.crop(box).resize((crop, crop), Image.Resampling.BICUBIC)  # pyright: ignore[reportArgumentType]


def crop_torchvision(image: Image.Image, crop: int) -> Image.Image:
    """Resize the shorter side to crop / 0.875 (bilinear) and crop the center."""
    least, short = min(image.size), int(crop / 0.875)
    size = tuple(int(short * side / least) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((size[1] - crop) / 2), round((size[0] - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


TRANSFORMS = {"resnest": crop_resnest, "torchvision": crop_torchvision}


class Folder(Classified):
    """Images (3, H, W) uint8 of a folder of classes, cropped and resized, with the index of the class.

    Raises:
        ValueError: there is no such folder, it has no folders in it, or an image cannot be read.
    """

    def __init__(self, root: Path, crop: int, transform: str) -> None:
        if not root.is_dir():
            raise ValueError(f"--root {root}: no such folder. Give one with a folder for each class")
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files = [
            (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise ValueError(
                f"--root {root}: no images in its {len(self.classes)} folders. It needs a folder for each "
                f"class with images ({', '.join(SUFFIXES)})"
            )
        self.crop, self.transform = crop, TRANSFORMS[transform]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, number = self.files[index]
        try:
            with Image.open(file) as image:
                prepared = self.transform(image.convert("RGB"), self.crop)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file}: cannot be read ({error}). Replace or remove it") from error
        return np.asarray(prepared).transpose(2, 0, 1), number


def iterate_batches(folder: Folder, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalized images (B, 3, H, W) and classes (B,), with a progress bar."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    with tqdm(total=len(folder), unit="image", disable=None) as bar:
        for image, number in DataLoader(folder, size, num_workers=workers):
            yield (image.float() / 255 - mean) / std, number
            bar.update(len(number))


def measure_accuracy(
    network: torch.nn.Module, labeled: Iterator[tuple[Tensor, Tensor]], *, device: str
) -> dict[int, float]:
    """Return the top-1 and top-5 accuracy, by 1 and 5."""
    hits, images = {1: 0, 5: 0}, 0
    network = network.to(device, memory_format=torch.channels_last).eval()
    with torch.inference_mode():
        for image, number in labeled:
            scores = network.classify(image.to(device))  # pyright: ignore[reportCallIssue]
            best = scores.topk(min(5, scores.shape[1])).indices.cpu()  # (B, 5)
            for k in hits:
                hits[k] += int((best[:, :k] == number[:, None]).any(1).sum())
            images += len(number)
    return {k: hit / images for k, hit in hits.items()}


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the options of this script and the settings of the backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder with a folder for each class"
    )
    parser.add_argument("--crop", type=int, help="side in pixels (default: as published)")
    parser.add_argument(
        "--transform", choices=TRANSFORMS, help="crop and resizing (default: of the backbone's authors)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen, settings = parser.parse_known_args(arguments)
    if unknown := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"{unknown[0]}: settings are written key=value, such as model/backbone=resnest")
    backbone = compose_settings("train", ["run_name=top1", *settings])["model"]["backbone"]
    if backbone["weights"] is None:
        backbone["weights"] = "imagenet"
    backbone["output_stride"] = 32  # classifiers are not dilated
    chosen.transform = chosen.transform or ("resnest" if backbone["name"] == "resnest" else "torchvision")
    if chosen.crop is None:
        chosen.crop = CROPS.get(backbone["variant"], 224) if backbone["name"] == "resnest" else 224
    return chosen, backbone


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and evaluate the classifier, and print the accuracy.

    Raises:
        ValueError: the folder, the settings or the weights do not fit one another.
    """
    chosen, backbone = parse_arguments(arguments)
    folder = Folder(chosen.root, chosen.crop, chosen.transform)
    if backbone["weights"] == "imagenet" and len(folder.classes) != 1000:
        raise ValueError(
            f"--root {chosen.root}: {len(folder.classes)} classes, but the published weights have 1000. Give "
            "ImageNet's validation images, or model.backbone.weights=FILE"
        )
    network = registry.build("models.backbones", backbone, num_classes=len(folder.classes))
    shares = measure_accuracy(
        network, iterate_batches(folder, chosen.batch_size, chosen.workers), device=chosen.device
    )
    details = f"crop {chosen.crop}, {chosen.transform}'s resizing"
    print(
        f"{backbone['name']} {backbone['variant']}: top-1 {shares[1]:.2%}, top-5 {shares[5]:.2%} "
        f"of {len(folder):,} images ({details})"
    )


if __name__ == "__main__":
    report_user_errors(main)
