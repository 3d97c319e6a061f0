"""Cost of monitoring: ``python benchmarks/monitor.py`` (two minutes on two CPU cores).

Measures the steps of ``experiment=demo`` and, separately, the calls of the monitor with the same losses: a
share below 1 % would be lost in the noise of two trainings. The CPU time of the monitor's thread is included.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the monitor's thread needs a core

import torch
import turns

from segkit import training
from segkit.config import compose
from segkit.monitor.monitor import Monitor
from segkit.training import builders

STEPS, CALLS = 12, 2000


def main() -> None:
    """Measure and print one table."""
    turns.make_parser(__doc__).parse_args()
    settings = compose.compose_settings("train", ["experiment=demo"])
    train_set, val_set = (builders.build_dataset(settings, split) for split in ("train", "val"))
    run = builders.build_training(settings, train_set, torch.device("cpu"), val_set=val_set)
    seconds = []
    batches = builders.remaining_steps(run, settings, train_set)
    for parts, _ in itertools.islice(batches, STEPS):
        begin = time.perf_counter()
        step = training.train_step(run, parts)
        seconds.append(time.perf_counter() - begin)
    per_step = statistics.median(seconds[2:])

    with tempfile.TemporaryDirectory() as folder:
        names, colors = train_set.table.names, train_set.table.colors
        monitor = Monitor(Path(folder), total=10**9, iterations_per_epoch=100, names=names, colors=colors)
        begin = time.process_time()
        for t in range(1, CALLS + 1):
            monitor.log_step(
                t, step.losses, step.rates, images=16, data_seconds=0.0, gradient_norm=step.gradient_norm
            )
        monitor.flush()
        per_call = (time.process_time() - begin) / CALLS
        monitor.close()

    print(f"\ntraining step of the demo   {1e3 * per_step:9.2f} ms (median of {STEPS - 2})")
    print(f"monitor.log_step            {1e3 * per_call:9.4f} ms (mean of {CALLS}; a point every 10th)")
    print(f"share of the step           {per_call / per_step:9.3%}   (goal: below 1 %)")


if __name__ == "__main__":
    main()
