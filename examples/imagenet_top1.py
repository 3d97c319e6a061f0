"""Score a classifier over a folder of classes, with the crop and the resizing of its authors.

    python examples/imagenet_top1.py --root DIR model/backbone=resnest

DIR has a folder a class, such as ImageNet's ``val/n01440764/*.JPEG``; sorted, they are in the weights' order.
What follows are settings of the model as of ``train_seg.py``; the weights are the published ones unless
``model.backbone.weights=FILE`` says which. Published for those of ResNeSt-50: 81.03 (docs/models.md).
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
from segkit.config.compose import composed
from segkit.models.network import IMAGENET_MEAN, IMAGENET_STD
from segkit.runtime.errors import report_user_errors

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CROPS = {"101": 256, "200": 320, "269": 416}  # of ResNeSt, by variant; all others 224
Classified = Dataset[tuple[np.ndarray, int]]


def of_resnest(image: Image.Image, crop: int) -> Image.Image:
    """The middle crop / (crop + 32) of the shorter side, resized to crop x crop (bicubic)."""
    width, height = image.size
    side = crop / (crop + 32) * min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    box = tuple(round(edge) for edge in (left, top, left + side, top + side))
    return image.crop(box).resize((crop, crop), Image.Resampling.BICUBIC)  # pyright: ignore[reportArgumentType]


def of_torchvision(image: Image.Image, crop: int) -> Image.Image:
    """The shorter side resized to crop / 0.875 (bilinear), then the middle crop x crop."""
    least, short = min(image.size), int(crop / 0.875)
    size = tuple(int(short * side / least) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((size[1] - crop) / 2), round((size[0] - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


WAYS = {"resnest": of_resnest, "torchvision": of_torchvision}


class Folder(Classified):
    """Images of a folder of classes, prepared: (3, H, W) uint8 and the number of the class.

    Raises:
        ValueError: there is no such folder, it has no folders in it, or an image cannot be read.
    """

    def __init__(self, root: Path, crop: int, way: str) -> None:
        if not root.is_dir():
            raise ValueError(f"--root {root}: there is no such folder; give one with a folder for each class")
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files = [
            (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise ValueError(
                f"--root {root}: no images in the {len(self.classes)} folders of it; it wants a folder for "
                f"each class, with images ({', '.join(SUFFIXES)}) inside"
            )
        self.crop, self.way = crop, WAYS[way]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, number = self.files[index]
        try:
            with Image.open(file) as image:
                prepared = self.way(image.convert("RGB"), self.crop)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file}: cannot be read ({error}); fix or remove it") from error
        return np.asarray(prepared).transpose(2, 0, 1), number


def batches(folder: Folder, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalized images (B, 3, H, W) and their classes (B,), in order, with a bar."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    with tqdm(total=len(folder), unit="image", disable=None) as bar:
        for image, number in DataLoader(folder, size, num_workers=workers):
            yield (image.float() / 255 - mean) / std, number
            bar.update(len(number))


def top(
    network: torch.nn.Module, labeled: Iterator[tuple[Tensor, Tensor]], *, device: str
) -> dict[int, float]:
    """Share of the images whose class is the likeliest, and is among the five likeliest."""
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


def parsed(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What was typed: our own options, and the settings of the backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder with a folder a class"
    )
    parser.add_argument("--crop", type=int, help="side in pixels (default: that of the published score)")
    parser.add_argument(
        "--way", choices=WAYS, help="whose crop and resizing (default: the backbone's authors')"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen, settings = parser.parse_known_args(arguments)
    if unknown := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"{unknown[0]}: settings are written key=value, such as model/backbone=resnest")
    backbone = composed("train", ["run_name=top1", *settings])["model"]["backbone"]
    if backbone["weights"] is None:
        backbone["weights"] = "imagenet"
    backbone["output_stride"] = 32  # classifiers are not dilated
    chosen.way = chosen.way or ("resnest" if backbone["name"] == "resnest" else "torchvision")
    if chosen.crop is None:
        chosen.crop = CROPS.get(backbone["variant"], 224) if backbone["name"] == "resnest" else 224
    return chosen, backbone


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the classifier, score it and say so.

    Raises:
        ValueError: the folder, the settings or the weights do not fit one another.
    """
    chosen, backbone = parsed(arguments)
    folder = Folder(chosen.root, chosen.crop, chosen.way)
    if backbone["weights"] == "imagenet" and len(folder.classes) != 1000:
        raise ValueError(
            f"--root {chosen.root}: {len(folder.classes)} classes, and the published weights know 1000; give "
            "ImageNet's validation images in a folder a class, or model.backbone.weights=FILE"
        )
    network = registry.build("models.backbones", backbone, num_classes=len(folder.classes))
    shares = top(network, batches(folder, chosen.batch_size, chosen.workers), device=chosen.device)
    told = f"crop {chosen.crop}, {chosen.way}'s resizing"
    print(
        f"{backbone['name']} {backbone['variant']}: top-1 {shares[1]:.2%}, top-5 {shares[5]:.2%} "
        f"of {len(folder):,} images ({told})"
    )


if __name__ == "__main__":
    report_user_errors(main)
