"""Compute ImageNet top-1 and top-5 of a classifier with the crop and resizing of its authors.

    python examples/imagenet_top1.py --root DIR model/backbone=resnest

DIR has one folder per class, such as ImageNet's ``val/n01440764/*.JPEG``; sorted names give the class order.
Other arguments are model settings of ``train_seg.py``. The published weights are used unless
``model.backbone.weights=FILE`` is given. Published for ResNeSt-50: 81.03 (docs/models.md).
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


def crop_like_resnest(image: Image.Image, crop: int) -> Image.Image:
    """Crop the central square, crop / (crop + 32) of the shorter side, and resize it (bicubic)."""
    width, height = image.size
    side = crop / (crop + 32) * min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    box = tuple(round(edge) for edge in (left, top, left + side, top + side))
    return image.crop(box).resize((crop, crop), Image.Resampling.BICUBIC)  # pyright: ignore[reportArgumentType]


def crop_like_torchvision(image: Image.Image, crop: int) -> Image.Image:
    """Resize the shorter side to crop / 0.875 (bilinear), then crop the center."""
    least, short = min(image.size), int(crop / 0.875)
    size = tuple(int(short * side / least) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((size[1] - crop) / 2), round((size[0] - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


CROP_FUNCTIONS = {"resnest": crop_like_resnest, "torchvision": crop_like_torchvision}


class Folder(Classified):
    """Images of a folder with one folder per class: (3, H, W) uint8 and the class index.

    Raises:
        ValueError: there is no such folder, it has no images, or an image cannot be read.
    """

    def __init__(self, root: Path, crop: int, way: str) -> None:
        if not root.is_dir():
            raise ValueError(f"--root {root}: no such folder. Give one with a folder per class")
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files = [
            (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise ValueError(
                f"--root {root}: no images in its {len(self.classes)} folders. It needs one folder per "
                f"class, with images ({', '.join(SUFFIXES)})"
            )
        self.crop, self.way = crop, CROP_FUNCTIONS[way]

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
    """Yield normalized images (B, 3, H, W) and their classes (B,) in order, with a progress bar."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    with tqdm(total=len(folder), unit="image", disable=None) as bar:
        for image, number in DataLoader(folder, size, num_workers=workers):
            yield (image.float() / 255 - mean) / std, number
            bar.update(len(number))


def top_k_accuracy(
    network: torch.nn.Module, labeled: Iterator[tuple[Tensor, Tensor]], *, device: str
) -> dict[int, float]:
    """Return top-1 and top-5 accuracy."""
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


def parse_args(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the options and the settings of the backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder with one folder per class"
    )
    parser.add_argument("--crop", type=int, help="side in pixels (default: that of the published score)")
    parser.add_argument(
        "--way", choices=CROP_FUNCTIONS, help="crop and resizing (default: of the backbone's authors)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args, settings = parser.parse_known_args(arguments)
    if unknown := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"{unknown[0]}: a setting must be key=value, such as model/backbone=resnest")
    backbone = composed("train", ["run_name=top1", *settings])["model"]["backbone"]
    if backbone["weights"] is None:
        backbone["weights"] = "imagenet"
    backbone["output_stride"] = 32  # classifiers are not dilated
    args.way = args.way or ("resnest" if backbone["name"] == "resnest" else "torchvision")
    if args.crop is None:
        args.crop = CROPS.get(backbone["variant"], 224) if backbone["name"] == "resnest" else 224
    return args, backbone


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the classifier and print its accuracy.

    Raises:
        ValueError: folder, settings or weights do not fit together.
    """
    args, backbone = parse_args(arguments)
    folder = Folder(args.root, args.crop, args.way)
    if backbone["weights"] == "imagenet" and len(folder.classes) != 1000:
        raise ValueError(
            f"--root {args.root}: {len(folder.classes)} classes, but the published weights have 1000. Give "
            "ImageNet's validation images, one folder per class, or model.backbone.weights=FILE"
        )
    network = registry.build("models.backbones", backbone, num_classes=len(folder.classes))
    accuracy = top_k_accuracy(network, batches(folder, args.batch_size, args.workers), device=args.device)
    print(
        f"{backbone['name']} {backbone['variant']}: top-1 {accuracy[1]:.2%}, top-5 {accuracy[5]:.2%} "
        f"of {len(folder):,} images (crop {args.crop}, {args.way}'s resizing)"
    )


if __name__ == "__main__":
    report_user_errors(main)
