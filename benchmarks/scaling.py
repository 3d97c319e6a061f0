"""Scaling of cost with the crop, the batch, the classes and the size of an image.

    python benchmarks/scaling.py [--what crop batch classes image]

Each row is the slope of seconds against a size on logarithmic axes: 1 is linear, 2 quadratic. Sizes take
turns in each round, and medians are fitted by least squares.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import ceilings
import inference_sides
import torch
import train_sides
import turns

from segkit.inference import Protocol, predict, prepare

SIZES = {  # measured sizes
    "crop": (96, 128, 192, 256),
    "batch": (2, 4, 8, 16),
    "classes": (10, 50, 100, 250, 500, 1000),
    "image": (256, 512, 768, 1024),
}
UNIT = {"crop": "pixels", "image": "pixels", "batch": "images", "classes": "classes"}


def make_work(variant: str, what: str, size: int) -> Callable[[], Any]:
    """Return a function that does the work once at a size."""
    if what == "image":
        fast = prepare(inference_sides.build_network(variant))
        image = inference_sides.make_image((size, size))
        how = Protocol(name="sliding", window=256, stride=192)
        return lambda: predict(fast, image, how)
    sizes = {"crop": 96, "batch": 2, "classes": 20} | {what: size}
    network = argparse.Namespace(variant=variant, seed=0, device="cpu", **sizes)
    step, batch = train_sides.segkit_step(network, "float32"), train_sides.make_batch(network)
    return lambda: step(*batch)


def main() -> None:
    """Print one table."""
    parser = turns.make_parser(__doc__)
    parser.add_argument("--what", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--variant", default="14", choices=["14", "26", "50", "101"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=[*turns.CLOCKS])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    machine = ceilings.describe_machine(given.threads)
    print(f"{machine}; ResNeSt-{given.variant}, {given.clock} time\n\n| size | cost | slope |\n|---|---|---|")
    for what in given.what:
        ways = {f"{what} {size}": make_work(given.variant, what, size) for size in SIZES[what]}
        seconds = turns.time_rounds(ways, given.rounds, clock=given.clock)
        found = dict(zip(SIZES[what], map(statistics.median, seconds.values()), strict=True))
        power = 2 if UNIT[what] == "pixels" else 1
        x, y = [power * math.log(size) for size in found], [math.log(value) for value in found.values()]
        slope = statistics.linear_regression(x, y).slope
        cells = ", ".join(f"{size}: {median:.3f} s" for size, median in found.items())
        print(f"| {what} | {cells} | {slope:.2f} in {UNIT[what]} |", flush=True)


if __name__ == "__main__":
    main()
