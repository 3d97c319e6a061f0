"""Cost of monitoring: ``python benchmarks/monitor.py`` (two minutes on two CPU cores).

Measures the steps of ``experiment=demo`` and, separately, the calls of the monitor with the same losses: a
share below 1 % would be lost in the noise of two trainings. The CPU time of the monitor's thread is included.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the monitor's thread needs a core
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from segkit import training
from segkit.config import compose, registry
from segkit.data import loaders, transforms
from segkit.models import segmenter
from segkit.monitor.monitor import Monitor

STEPS, CALLS = 12, 2000


def main() -> None:
    """Measure and print one table."""
    settings = compose.compose_settings("train", ["experiment=demo"])
    train_set = registry.build("data.datasets", settings["data"], split="train")
    table = train_set.table
    schedule = training.Schedule(**settings["schedule"])
    run = training.setup_training(
        segmenter.build(table.num_classes, **settings["model"]),
        registry.build("losses", settings["loss"], num_classes=table.num_classes),
        samples=len(train_set),
        schedule=schedule,
        runtime=training.Runtime(**settings["runtime"]),
        device=torch.device("cpu"),
        seed=0,
    )
    batches = loaders.TrainingLoader(
        train_set,
        transforms.build(**settings["augment"]),
        loaders.SampleOrder(len(train_set), 0, schedule.batch_size, schedule.loader_batches),
        iterations=range(STEPS),
    )
    seconds, step = [], None
    for parts, _ in training.steps(batches, schedule.loader_batches):
        begin = time.perf_counter()
        step = training.train_step(run, parts)
        seconds.append(time.perf_counter() - begin)
    assert step is not None
    per_step = statistics.median(seconds[2:])

    with tempfile.TemporaryDirectory() as folder:
        monitor = Monitor(
            Path(folder),
            total=10**9,
            iterations_per_epoch=100,
            names=table.names,
            colors=table.colors,
        )
        begin = time.process_time()
        for t in range(1, CALLS + 1):
            monitor.log_step(
                t, step.losses, step.rates, images=16, data_seconds=0.0, gradient_norm=step.gradient_norm
            )
        monitor.flush()
        per_call = (time.process_time() - begin) / CALLS
        monitor.close()

    print(f"\ntraining step of the demo   {1e3 * per_step:9.2f} ms (median of {STEPS - 2})")
    print(f"monitor.step                {1e3 * per_call:9.4f} ms (mean of {CALLS}; a point every 10th)")
    print(f"share of the step           {per_call / per_step:9.3%}   (goal: below 1 %)")


if __name__ == "__main__":
    main()
