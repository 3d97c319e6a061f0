"""Scaling of cost with the crop, the batch, the classes, the size of an image, and the loader's workers.

    python benchmarks/scaling.py [--what crop batch classes image workers]

Each row is the slope of seconds against a size on logarithmic axes: 1 is linear, 2 quadratic. Sizes take
turns in each round, and medians are fitted by least squares. ``workers`` are images/s of the loader.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ceilings
import inference_sides
import train_sides
import turns

SIZES = {  # measured sizes
    "crop": (96, 128, 192, 256),
    "batch": (2, 4, 8, 16),
    "classes": (10, 50, 100, 250, 500, 1000),
    "image": (256, 512, 768, 1024),
}
UNIT = {"crop": "pixels", "image": "pixels", "batch": "images", "classes": "classes"}


def make_work(given: argparse.Namespace, what: str, size: int) -> Callable[[], Any]:
    """Return a function that does the work once at a size."""
    if what == "image":
        from segkit.inference import Protocol, predict, prepare

        fast = prepare(inference_sides.build_network(given.variant))
        image, how = (
            inference_sides.make_image((size, size)),
            Protocol(name="sliding", window=256, stride=192),
        )
        return lambda: predict(fast, image, how)
    sizes = {"crop": 96, "batch": 2, "classes": 20} | {what: size}
    network = argparse.Namespace(variant=given.variant, seed=0, auxiliary=False, device="cpu", **sizes)
    step, batch = train_sides.segkit_step(network, "float32"), train_sides.make_batch(network)
    return lambda: step(*batch)


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Return the exponent of the best fit of seconds as a power of size."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def measure_growth(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """Return median seconds at each size, and their slope."""
    ways = {size: make_work(given, what, size) for size in SIZES[what]}
    seconds: dict[int, list[float]] = {size: [] for size in ways}
    now = turns.CLOCKS[given.clock]
    for number in range(given.rounds + 1):  # the first warms up
        for size, way in ways.items():
            start = now()
            way()
            seconds[size].append(now() - start)
            turns.log_message(f"  {what} {size}, round {number} of {given.rounds}: {seconds[size][-1]:.3f} s")
    found = {size: statistics.median(each[1:]) for size, each in seconds.items()}
    counted = [float(size**2 if UNIT[what] == "pixels" else size) for size in found]
    return {"what": what, "unit": UNIT[what], "seconds": found, "slope": slope(counted, [*found.values()])}


def measure_loader(given: argparse.Namespace) -> dict[str, Any]:
    """Return images/s of the loader by number of workers."""
    from segkit.data import loaders, transforms
    from segkit.data.datasets import shapes

    rates = {}
    for workers in (0, 1, 2):
        scenes = shapes.build("train", size=256)
        order, transform = (
            loaders.SampleOrder(len(scenes), 0, 8),
            transforms.build(crop_size=224, base_size=256),
        )
        batches = iter(
            loaders.TrainingLoader(scenes, transform, order, iterations=range(24), workers=workers)
        )
        next(batches)  # by then workers have started
        start = time.perf_counter()
        count = sum(len(batch.image) for batch in batches)
        rates[workers] = count / (time.perf_counter() - start)
        turns.log_message(f"  {workers} workers: {rates[workers]:.0f} images/s")
    return {"what": "workers", "images": rates}


def format_row(part: dict[str, Any]) -> str:
    """Return a line of the table."""
    if part["what"] == "workers":
        rates = ", ".join(f"{workers}: {rate:.0f}" for workers, rate in part["images"].items())
        return f"| images/s of the loader by workers | {rates} | |"
    cells = ", ".join(f"{size}: {seconds:.3f} s" for size, seconds in part["seconds"].items())
    return f"| {part['what']} | {cells} | {part['slope']:.2f} in {part['unit']} |"


def main() -> None:
    """Print one table."""
    parser = turns.make_parser(__doc__)
    ways = {**dict.fromkeys(SIZES, measure_growth), "workers": measure_loader}
    parser.add_argument("--what", nargs="+", default=[*ways], choices=[*ways])
    parser.add_argument("--variant", default="14", choices=["14", "26", "50", "101"])
    parser.set_defaults(rounds=3)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    print(f"{ceilings.describe_machine(given.threads)}; ResNeSt-{given.variant}, {given.clock} time\n")
    print("| size | cost | slope |\n|---|---|---|", flush=True)
    for what in given.what:
        part = measure_growth(given, what) if what in SIZES else ways[what](given)
        turns.store_results(
            given, part | {"clock": given.clock, "machine": ceilings.describe_machine(given.threads)}
        )
        print(format_row(part | {"clock": given.clock}), flush=True)


if __name__ == "__main__":
    main()
