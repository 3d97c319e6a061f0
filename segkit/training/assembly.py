"""A run put together from settings: its moving parts, its batches, and what it tells its monitor."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segkit.config import registry
from segkit.data import loaders, transforms
from segkit.models import summary
from segkit.monitor.banners import RunFacts, format_banner
from segkit.monitor.monitor import Monitor
from segkit.runtime import distributed
from segkit.runtime.precision import Runtime
from segkit.training import advice, best, initial_model, position
from segkit.training.run import Step, Training, setup_training, steps
from segkit.training.schedule import Schedule
from segkit.types import Batch, Dataset

Settings = Mapping[str, Any]


def build_training(
    settings: Settings, train_set: Dataset, device: torch.device, *, val_set: Dataset | None = None
) -> Training:
    """Build a run at its beginning: network, loss and what trains them, on the classes of its data.

    Args:
        settings: of the command ``train``.
        train_set: its classes and its length decide.
        device: of this process.
        val_set: to notice when a resumed run is validated on other files.

    Raises:
        ValueError: a part refuses its settings.
        OSError: weights could not be downloaded.
    """
    torch.manual_seed(settings["seed"])
    table, metric = train_set.table, settings["checkpoint"]["metric"]
    best.check_metric(metric, table.names)
    model, notes = initial_model.build_model(settings["model"], table)
    run = setup_training(
        model,
        registry.build("losses", settings["loss"], num_classes=table.num_classes),
        samples=len(train_set),
        schedule=Schedule(**settings["schedule"]),
        runtime=Runtime(**settings["runtime"]),
        device=device,
        seed=settings["seed"],
        metric=metric,
    )
    run.files = position.digest_names(train_set.names)
    run.val_files = position.digest_names(val_set.names) if val_set is not None else ""
    advice.check_training(run, every=settings["evaluation"]["every"])
    lines = advice.warnings(run, settings["model"])
    if distributed.is_main():
        lines += advice.warn_padding(train_set, transforms.build(**settings["augment"]))
    run.notes = [*notes, *(f"careful: {line}" for line in lines)]
    return run


def remaining_steps(
    run: Training, settings: Settings, train_set: Dataset
) -> Iterator[tuple[list[Batch], float]]:
    """The batches of this process for the iterations still to do, as ``training.steps`` yields them.

    Raises:
        ValueError: the batch cannot be shared out evenly; while iterating, a sample cannot be read.
    """
    order = loaders.SampleOrder(
        len(train_set),
        settings["seed"],
        run.schedule.batch_size,
        accumulate=run.schedule.parts,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        drop_last=run.schedule.drop_last,
    )
    batches = loaders.training_loader(
        train_set,
        transforms.build(**settings["augment"]),
        order,
        iterations=run.remaining_iterations,
        workers=settings["loader"]["workers"],
    )
    return itertools.takewhile(lambda _: not run.out_of_patience, steps(batches, run.schedule.parts))


@contextlib.contextmanager
def open_monitor(
    run: Training, settings: Settings, splits: Sequence[Dataset], folder: Path
) -> Iterator[Monitor]:
    """The run's monitor, going on where the run does; what is trained has been said and recorded.

    Args:
        run: restored, if it goes on.
        settings: of the command ``train``.
        splits: to train on and to validate on.
        folder: of the run.
    """
    train_set, val_set = splits
    facts = RunFacts(
        summary.parameters(run.model),
        train_images=len(train_set),
        val_images=len(val_set),
        iterations=run.length,
        done=run.iteration,
        device=str(run.device),
        precision=run.runtime.precision,
    )
    with Monitor(
        folder,
        start=run.iteration,
        validation_pending=run.validation_pending,
        total=run.length,
        iterations_per_epoch=run.schedule.samples_per_epoch(len(train_set)) / run.schedule.batch_size,
        names=train_set.table.names,
        colors=train_set.table.colors,
        writers=settings["writers"],
    ) as monitor:
        monitor.log_message("\n".join([format_banner(settings, facts), *run.notes]))
        network = summary.format_summary(run.model, settings["sizes"]["crop"], operations=False)
        monitor.describe(settings, network=network)
        yield monitor


def record(monitor: Monitor, run: Training, step: Step, parts: Sequence[Batch], *, waited: float) -> None:
    """Give a step that was taken to the monitor.

    Args:
        monitor: of the run; with the first step it is shown what the network really sees.
        run: after the step.
        step: its losses.
        parts: the batch it was taken on.
        waited: seconds, for the batch.
    """
    monitor.step(
        run.iteration,
        step.losses,
        run.learning_rates(),
        images=run.schedule.batch_size,
        data_seconds=waited,
        gradient_norm=step.gradient_norm,
        ema_distance=run.ema_distance,
    )
    if run.iteration == 1:  # drawn after the step was told, whose speed it is no part of
        monitor.batch(0, parts[0])
