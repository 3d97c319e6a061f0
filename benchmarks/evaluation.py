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
from collections.abc import Callable
from pathlib import Path

import ceilings
import inference_sides
import numpy as np
import torch
import torch.nn.functional as F
import turns

from segkit import checkpoint as store
from segkit.data.reading import read_image
from segkit.inference import Protocol, predict, predictor, prepare
from segkit.models.segmenter import Segmenter

ADE20K = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "base_size": 520, "window": 480}
ENCODING = {"name": "encoding", "resize": "long_side", "flip": True, "border": "pad", "merge": "exp"}


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
    model: Segmenter, image: np.ndarray, scales: tuple[float, ...]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return functions that predict class ids, on the CPU: the published loop, segkit in float32 and bf16."""
    settings = {**ADE20K, "scales": scales}
    ways = {"plain": lambda: plain(model, image, *settings.values()).cpu()}
    for precision in ("float32", "bf16"):
        fast = prepare(model, precision=precision)
        how = Protocol(**ENCODING, **settings, precision=precision)
        ways[precision] = lambda fast=fast, how=how: predict(fast, image, how).cpu()
    return ways


def speed(given: argparse.Namespace) -> None:
    """Print the seconds for one photograph under the protocol ``encoding``, and their ratios."""
    model = inference_sides.build_network(given.variant).to(given.device)
    seconds = turns.time_rounds(
        build_ways(model, read_image(given.image), tuple(given.scales)), given.rounds, warm=0
    )
    machine = ceilings.describe_machine(torch.get_num_threads(), given.device)
    what = f"{given.image.name}, scales {given.scales} with flips, DeepLabV3-ResNeSt-{given.variant}"
    print(f"{what}, median of {given.rounds}, {machine}")
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:7.1f} s  {median / medians['plain']:5.0%} of plain")


def agreement(given: argparse.Namespace) -> None:
    """Print the share of pixels for which segkit and the published loop predict the same class."""
    model_settings = store.read_checkpoint(given.checkpoint)["settings"]["model"]
    loaded = {"checkpoint": given.checkpoint, "model": model_settings}
    model = predictor.load_model(loaded, torch.device("cpu")).model.eval()
    for file in sorted(given.images.iterdir())[: given.count]:
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
    parser = turns.make_parser(__doc__)
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
        speed(given)
    else:
        agreement(given)
