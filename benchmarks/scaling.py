"""Scaling of cost with the crop, the batch, the classes and the size of an image.

    python benchmarks/scaling.py [--what crop batch classes image]

Each row is the slope of seconds against a size on logarithmic axes: 1 is linear, 2 quadratic. Sizes take
turns in each round, and medians are fitted by least squares.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
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


def measure_growth(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """Return median seconds at each size, and the exponent of their best fit as a power of the size."""
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
    power = 2 if UNIT[what] == "pixels" else 1
    x, y = [power * math.log(size) for size in found], [math.log(value) for value in found.values()]
    return {"what": what, "seconds": found, "slope": statistics.linear_regression(x, y).slope}


def main() -> None:
    """Print one table."""
    import torch

    parser = turns.make_parser(__doc__)
    parser.add_argument("--what", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--variant", default="14", choices=["14", "26", "50", "101"])
    parser.set_defaults(rounds=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    machine = ceilings.describe_machine(given.threads)
    print(f"{machine}; ResNeSt-{given.variant}, {given.clock} time\n\n| size | cost | slope |\n|---|---|---|")
    for what in given.what:
        part = measure_growth(given, what)
        turns.store_results(given, part | {"clock": given.clock, "machine": machine})
        cells = ", ".join(f"{size}: {seconds:.3f} s" for size, seconds in part["seconds"].items())
        print(f"| {what} | {cells} | {part['slope']:.2f} in {UNIT[what]} |", flush=True)


if __name__ == "__main__":
    main()
