"""Time of scoring, and agreement of its results, each against the published loop in one run.

    python benchmarks/evaluation.py speed --image photo.jpg [--rounds 3] [--device cuda]
    python benchmarks/evaluation.py agreement --checkpoint best.pt --images folder [--count 5]

The published loop processes one window and one flip at a time in float32; each result is resized,
exponentiated and summed at full size. Memory: ``benchmarks/inference.py large``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segkit import checkpoint as store
from segkit.data.reading import read_image
from segkit.inference import Protocol, predict, predictor, prepare
from segkit.models import segmenter

ADE20K = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "base_size": 520, "window": 480}
ENCODING = {"name": "encoding", "resize": "long_side", "flip": True, "border": "pad", "merge": "exp"}


def network(variant: str) -> segmenter.Segmenter:
    """DeepLabV3 with fresh weights; time and memory do not depend on them."""
    torch.manual_seed(0)
    backbone = {"name": "resnest", "variant": variant, "output_stride": 8}
    return segmenter.build(150, backbone=backbone, head={"name": "deeplabv3"}).eval()


@torch.inference_mode()
def plain(model, image, scales, base_size, window):
    """Predict class ids with the loop of PyTorch-Encoding, whose window moves by two thirds of its size."""
    device = model.mean.device
    x = model.normalize(torch.from_numpy(image).to(device).permute(2, 0, 1)[None])
    height, width = image.shape[:2]
    black = (-model.mean / model.std)[None]
    stride = window * 2 // 3

    def pad_image(y):
        out = black.expand(1, 3, max(window, y.shape[2]), max(window, y.shape[3])).clone()
        out[:, :, : y.shape[2], : y.shape[3]] = y
        return out

    scores = torch.zeros(1, model.num_classes, height, width, device=device)
    for scale in scales:
        long = math.ceil(base_size * scale)
        short = int(min(height, width) * long / max(height, width) + 0.5)
        size = (long, short) if height > width else (short, long)
        y = pad_image(F.interpolate(x, size, mode="bilinear", align_corners=True))
        ph, pw = y.shape[2:]
        out, count = (torch.zeros(1, many, ph, pw, device=device) for many in (model.num_classes, 1))
        for i in range(math.ceil((ph - window) / stride) + 1):
            for j in range(math.ceil((pw - window) / stride) + 1):
                top, left = i * stride, j * stride
                bottom, right = min(top + window, ph), min(left + window, pw)
                part = pad_image(y[:, :, top:bottom, left:right])
                answer = (model(part).main + model(part.flip(3)).main.flip(3)).exp()
                out[:, :, top:bottom, left:right] += answer[:, :, : bottom - top, : right - left]
                count[:, :, top:bottom, left:right] += 1
        merged = (out / count)[:, :, : size[0], : size[1]]
        scores += F.interpolate(merged, (height, width), mode="bilinear", align_corners=True)
    return scores[0].argmax(0)


def build_ways(
    model: segmenter.Segmenter, image: np.ndarray, scales: tuple[float, ...]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return functions that predict class ids: the published loop, and segkit in float32 and bf16."""
    settings = {**ADE20K, "scales": scales}
    ways = {"plain": lambda: plain(model, image, *settings.values())}
    for precision in ("float32", "bf16"):
        fast = prepare(model, precision=precision)
        how = Protocol(**ENCODING, **settings, precision=precision)
        ways[precision] = lambda fast=fast, how=how: predict(fast, image, how)
    return ways


def speed(
    photograph: Path, variant: str, rounds: int, scales: tuple[float, ...], device: str = "cpu"
) -> None:
    """Seconds for one photograph under the protocol ``encoding``, interleaved, and their ratios."""
    model, image = network(variant).to(device), read_image(photograph)
    ways = build_ways(model, image, scales)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():  # interleaved: what else the machine does meets all of them
            start = time.perf_counter()
            way().cpu()  # which waits for it
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name:8} {seconds[name][-1]:7.1f} s", flush=True)
    what = f"{photograph.name}, scales {scales} with flips, DeepLabV3-ResNeSt-{variant}"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{what}, median of {rounds}, {where}")
    plain_seconds = statistics.median(seconds["plain"])
    for name in ways:
        median = statistics.median(seconds[name])
        print(f"{name:8} {median:7.1f} s  {median / plain_seconds:5.0%} of plain")


def agreement(checkpoint: Path, images: Path, count: int) -> None:
    """Print the share of pixels for which segkit and the published loop predict the same class."""
    settings = {"checkpoint": checkpoint, "model": store.read_checkpoint(checkpoint)["settings"]["model"]}
    model = predictor.load_model(settings, torch.device("cpu")).model.eval()
    for file in sorted(images.iterdir())[:count]:
        image = read_image(file)
        settings = {
            "scales": ADE20K["scales"],
            "base_size": max(image.shape),
            "window": 2 * max(image.shape) // 3,
        }
        expected = plain(model, image, *settings.values())
        for precision in ("float32", "bf16"):
            how = Protocol(**ENCODING, **settings, precision=precision)
            found = predict(prepare(model, precision=precision), image, how)
            same = (found == expected).double().mean().item()
            print(f"{file.name} {precision:8} {same:9.5%} of {found.numel()} pixels agree", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "agreement"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scales", type=float, nargs="+", default=ADE20K["scales"])
    parser.add_argument("--variant", default="101")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of speed")
    given = parser.parse_args()
    for name in {"speed": ["image"], "agreement": ["checkpoint", "images"]}[given.what]:
        if getattr(given, name) is None:
            parser.error(f"{given.what} needs --{name}")
    if given.what == "speed":
        speed(given.image, given.variant, given.rounds, tuple(given.scales), given.device)
    else:
        agreement(given.checkpoint, given.images, given.count)
