"""Build a training run from settings: model, batches and monitor."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segkit.config import registry
from segkit.data import loaders, sampling, transforms
from segkit.models import segmenter, summary
from segkit.monitor.banners import format_banner
from segkit.monitor.monitor import Monitor
from segkit.runtime import distributed
from segkit.runtime.precision import Runtime
from segkit.training import advice, best_metric, initial_model
from segkit.training.run import Training, digest_names, setup_training
from segkit.training.schedule import Schedule
from segkit.training.step import Step, steps
from segkit.types import Batch, Dataset

Settings = Mapping[str, Any]


def build_training(
    settings: Settings, train_set: Dataset, device: torch.device, *, val_set: Dataset | None = None
) -> Training:
    """Build a run before its first step; it stores the file names of both sets, to notice other ones.

    Raises:
        ValueError: a setting is refused.
        OSError: weights could not be downloaded.
    """
    torch.manual_seed(settings["seed"])
    table, metric = train_set.table, settings["checkpoint"]["metric"]
    best_metric.check_metric(metric, table.names)
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
    run.files = digest_names(train_set.names)
    run.val_files = digest_names(val_set.names) if val_set is not None else ""
    advice.check_patience(run, every=settings["evaluation"]["every"])
    warnings = advice.find_warnings(run, settings["model"])
    if distributed.is_main():
        warnings += advice.warn_padding(train_set, transforms.build(**settings["augment"]))
    if excluded := getattr(train_set, "excluded", ()):
        count = f"{len(excluded):,} of {len(excluded) + len(train_set):,} training images"
        notes = [*notes, f"data.exclude={settings['data']['exclude']}: {count} are left out"]
    run.notes = [*notes, *(f"careful: {warning}" for warning in warnings)]
    return run


def with_normalization(settings: Settings, model: segmenter.Segmenter) -> dict[str, Any]:
    """Return the settings with the mean and standard deviation of the model in place of null."""
    return {**settings, "model": segmenter.with_normalization(settings["model"], model.backbone)}


def remaining_steps(
    run: Training, settings: Settings, train_set: Dataset
) -> Iterator[tuple[list[Batch], float]]:
    """Return the batches of this process for the remaining iterations, as ``training.steps`` yields them.

    Raises:
        ValueError: the batch does not divide evenly; while iterating, a sample cannot be read.
    """
    schedule, loader = run.schedule, settings["loader"]
    factors = sampling.build_repeat_factors(train_set, loader["sampling"], loader["repeat_threshold"])
    if factors is not None:
        run.notes.append(factors.note)
    order = loaders.SampleOrder(
        len(train_set),
        settings["seed"],
        schedule.batch_size,
        accumulate=schedule.loader_batches,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        drop_last=schedule.drop_last,
        repeat_factors=factors,
    )
    batches = loaders.TrainingLoader(
        train_set,
        transforms.build(**settings["augment"]),
        order,
        iterations=run.remaining_iterations,
        workers=loader["workers"],
    )
    return itertools.takewhile(lambda _: not run.is_out_of_patience, steps(batches, schedule.loader_batches))


@contextlib.contextmanager
def open_monitor(
    run: Training, settings: Settings, splits: Sequence[Dataset], folder: Path
) -> Iterator[Monitor]:
    """Open the monitor of a run, after it was restored, and record what is trained."""
    train_set, val_set = splits
    banner = format_banner(
        settings,
        parameters=summary.count_parameters(run.model),
        train_images=len(train_set),
        val_images=len(val_set),
        iterations=run.length,
        done=run.iteration,
        machine=f"{run.device} in {run.runtime.precision}",
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
        monitor.log_message("\n".join([banner, *run.notes]))
        network = summary.format_summary(run.model, settings["sizes"]["crop"], operations=False)
        monitor.log_settings(settings, network=network)
        yield monitor


def log_step(monitor: Monitor, run: Training, step: Step, batches: Sequence[Batch], *, waited: float) -> None:
    """Record a step that was taken on ``batches``, after ``waited`` seconds for them."""
    monitor.log_step(
        run.iteration,
        step.losses,
        run.learning_rates(),
        images=run.schedule.batch_size,
        data_seconds=waited,
        gradient_norm=step.gradient_norm,
        ema_distance=run.ema_distance,
    )
    if run.iteration == 1:  # after the step was recorded, so that its speed does not include the drawing
        monitor.log_batch(0, batches[0])
