"""How the cost grows: with the crop, the batch, the classes, the size of an image, workers and processes.

    python benchmarks/scaling.py [--what crop batch classes image workers processes]

Each row is the slope of seconds against a size, both as logarithms: 1 is linear, 2 quadratic. Sizes are
measured in turn, round by round, and medians are fitted by least squares. ``processes`` is a training under
``torchrun`` with two processes of a thread each, against one process of two threads on the same total batch;
``workers`` are images/s of the loader.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
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

from segkit.runtime import environment

SIZES = {  # what grows: the sizes that are tried
    "crop": (96, 128, 192, 256),
    "batch": (2, 4, 8, 16),
    "classes": (10, 50, 100, 250, 500, 1000),
    "image": (256, 512, 768, 1024),
}
UNIT = {"crop": "pixels", "image": "pixels", "batch": "images", "classes": "classes"}
STEPS = 6  # that `processes` counts, after two


def work_of(given: argparse.Namespace, what: str, size: int) -> Callable[[], Any]:
    """The work whose cost is asked for."""
    if what == "image":
        from segkit.inference import Protocol, predict, prepare

        fast = prepare(inference_sides.network(given.variant))
        image, how = inference_sides.scene((size, size)), Protocol(name="sliding", window=256, stride=192)
        return lambda: predict(fast, image, how)
    sizes = {"crop": 96, "batch": 2, "classes": 20} | {what: size}
    network = argparse.Namespace(variant=given.variant, seed=0, auxiliary=False, device="cpu", **sizes)
    step, batch = train_sides.segkit_step(network, "float32"), train_sides.noise(network)
    return lambda: step(*batch)


def slope(sizes: list[float], seconds: list[float]) -> float:
    """The exponent that fits best: seconds grow as size to its power."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def growth(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """Median seconds at each size, and their slope."""
    ways = {size: work_of(given, what, size) for size in SIZES[what]}
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


def loading(given: argparse.Namespace) -> dict[str, Any]:
    """Images/s of the loader by number of workers."""
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
            loaders.training_loader(scenes, transform, order, iterations=range(24), workers=workers)
        )
        next(batches)  # by then workers have started
        start = time.perf_counter()
        count = sum(len(batch.image) for batch in batches)
        rates[workers] = count / (time.perf_counter() - start)
        turns.log_message(f"  {workers} workers: {rates[workers]:.0f} images/s")
    return {"what": "workers", "images": rates}


def train(given: argparse.Namespace) -> None:
    """One process of ``processes``: seconds a step, of the clock and of the processor, said by the first."""
    import torch

    import segkit
    from segkit import training
    from segkit.runtime import distributed

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    typed = ["experiment=demo", "model=deeplabv3_resnest14", f"data.size={given.crop}"]
    typed += [f"augment.crop_size={given.crop}"]
    typed += ["schedule.batch_size=8", "schedule.iterations=100", "loader.workers=0", "device=cpu"]
    settings = segkit.composed("train", typed)
    with distributed.init_process_group("cpu") as device:
        train_set = segkit.build_dataset(settings)
        run = training.build_training(settings, train_set, device)
        for module in run.model.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
                module.p = 0.0  # masks follow the rank, and losses are to be compared
        taken = []
        for (parts, _), _ in zip(
            training.remaining_steps(run, settings, train_set), range(STEPS + 2), strict=False
        ):
            distributed.barrier()
            start, worked = time.perf_counter(), time.process_time()
            loss = float(sum(training.train_step(run, parts).losses.values()))
            taken.append((time.perf_counter() - start, time.process_time() - worked))
        wall, processor = (statistics.median(each) for each in zip(*taken[2:], strict=True))
        total = sum(distributed.gather(processor))
        if distributed.is_main():
            print(json.dumps({"wall": wall, "processor": total, "loss": loss}), flush=True)


def processes(given: argparse.Namespace) -> dict[str, Any]:
    """One process of two threads and two of one, in turn."""
    found: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
    for number in range(max(1, given.rounds)):
        for name in found:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
            command = [*(launch if name == "two" else []), __file__, "--worker", "train"]
            command += [f"--crop={given.crop}"]
            threads = {
                "OMP_NUM_THREADS": "2" if name == "one" else "1",
                **(environment.THREADS | environment.PAGES),
            }
            told = subprocess.run(
                [sys.executable, *command],
                env={**os.environ, **threads, "PYTHONPATH": str(turns.ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            if told.returncode:
                raise SystemExit(f"{name}: {told.stderr.strip()[-600:]}")
            found[name].append(json.loads(told.stdout.strip().splitlines()[-1]))
            turns.log_message(f"  {name}, round {number + 1}: {found[name][-1]}")
    middle = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    return {"what": "processes", "crop": given.crop, **middle}


def words(part: dict[str, Any]) -> str:
    """A line of the table."""
    if part["what"] == "workers":
        rates = ", ".join(f"{workers}: {rate:.0f}" for workers, rate in part["images"].items())
        return f"| images/s of the loader by workers | {rates} | |"
    if part["what"] == "processes":
        one, two = part["one"], part["two"]
        cells = ", ".join(f"{name} {row['wall']:.3f} s" for name, row in (("one", one), ("two", two)))
        more = two[part["clock"]] / one[part["clock"]] - 1
        return f"| processes, same batch, crop {part['crop']} | {cells} | {more:+.0%} |"
    cells = ", ".join(f"{size}: {seconds:.3f} s" for size, seconds in part["seconds"].items())
    return f"| {part['what']} | {cells} | {part['slope']:.2f} in {part['unit']} |"


def main() -> None:
    """Print one table."""
    parser = turns.arguments(__doc__)
    ways = {**dict.fromkeys(SIZES, growth), "workers": loading, "processes": processes}
    parser.add_argument("--what", nargs="+", default=[*ways], choices=[*ways])
    parser.add_argument("--variant", default="14", choices=["14", "26", "50", "101"])
    parser.add_argument("--crop", type=int, default=128, help="of `processes`")
    parser.set_defaults(rounds=3)
    given = parser.parse_args()
    if given.worker:
        train(given)
        return
    import torch

    torch.set_num_threads(given.threads)
    print(f"{ceilings.machine(given.threads)}; ResNeSt-{given.variant}, {given.clock} time\n")
    print("| what grows | cost | slope, or overhead |\n|---|---|---|", flush=True)
    for what in given.what:
        part = growth(given, what) if what in SIZES else ways[what](given)
        turns.keep(given, part | {"clock": given.clock, "machine": ceilings.machine(given.threads)})
        print(words(part | {"clock": given.clock}), flush=True)


if __name__ == "__main__":
    main()
