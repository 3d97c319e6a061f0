"""Build the parts of a training from settings, for ``train_seg.py`` or a loop of your own.

Settings are those of ``segkit.compose_settings("train", ["model=...", "data=..."])``. For a complete loop see
``examples/own_loop.py``.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segkit import checkpoint
from segkit.config import registry
from segkit.config.values import expand_home
from segkit.data import loaders, sampling, transforms
from segkit.models import segmenter, summary
from segkit.monitor.banners import format_banner
from segkit.monitor.monitor import Monitor
from segkit.runtime import distributed
from segkit.runtime.precision import Runtime
from segkit.training import advice, best_metric, initial_model
from segkit.training.nonfinite import Step
from segkit.training.run import Training, digest_names, setup_training
from segkit.training.schedule import Schedule
from segkit.training.step import steps
from segkit.types import Batch, ClassTable, Dataset, Loss

Settings = Mapping[str, Any]


def build_dataset(settings: Settings, split: str = "train") -> Dataset:
    """Return a split (``train`` or ``val``) of the data set of ``data=...``."""
    return registry.build("data.datasets", settings["data"], split=split)


def build_model(settings: Settings, num_classes: int) -> segmenter.Segmenter:
    """Return the network of ``model=...``, from images (B, 3, H, W), uint8 or normalized, to ``Logits``."""
    return segmenter.build(num_classes, **settings["model"])


def build_loss(settings: Settings, num_classes: int) -> Loss:
    """Return the loss of ``loss=...``: it maps (``Logits``, label (B, H, W)) to parts by name."""
    return registry.build("losses", settings["loss"], num_classes=num_classes)


def training_batches(settings: Settings, dataset: Dataset, *, iterations: range) -> loaders.TrainingLoader:
    """Return augmented batches of this process: image (B, 3, H, W) uint8 and label (B, H, W).

    Args:
        settings: ``augment``, ``schedule``, ``seed`` and ``loader``; with ``schedule.accumulate=N`` each
            iteration has N micro-batches.
        dataset: any ``Dataset``.
        iterations: ``range(first, end)``; batches do not depend on where the range starts.

    Raises:
        ValueError: the batch does not divide evenly; while iterating, a sample cannot be read.
    """
    loader, schedule = settings["loader"], Schedule(**settings["schedule"])
    order = loaders.SampleOrder(
        len(dataset),
        settings["seed"],
        schedule.batch_size,
        accumulate=schedule.loader_batches,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        drop_last=schedule.drop_last,
        repeat_factors=sampling.build_repeat_factors(dataset, loader["sampling"], loader["repeat_threshold"]),
    )
    transform = transforms.build(**settings["augment"])
    return loaders.TrainingLoader(dataset, transform, order, iterations=iterations, workers=loader["workers"])


def save(model: segmenter.Segmenter, file: str | Path, *, settings: Settings, table: ClassTable) -> None:
    """Write a checkpoint that ``segkit.load`` and the commands read; atomic.

    Args:
        model: built by ``build_model`` from the same settings.
        file: its folder is created.
        settings: of the training.
        table: classes, ``dataset.table``.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(expand_home(str(file)))
    path.parent.mkdir(parents=True, exist_ok=True)
    about = checkpoint.describe_training(dict(settings), table)
    checkpoint.write_checkpoint(path, {**about, "iteration": 0, "model": model.state_dict()})


def build_training(
    settings: Settings, train_set: Dataset, device: torch.device, *, val_set: Dataset
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
    run.files, run.val_files = digest_names(train_set.names), digest_names(val_set.names)
    advice.check_patience(run, every=settings["evaluation"]["every"])
    if excluded := getattr(train_set, "excluded", ()):
        count = f"{len(excluded):,} of {len(excluded) + len(train_set):,} training images"
        notes.append(f"data.exclude={settings['data']['exclude']}: {count} are left out")
    warnings = [*advice.find_warnings(run, settings["model"])]
    if distributed.is_main():
        warnings += advice.warn_padding(train_set, transforms.build(**settings["augment"]))
    run.notes = [*notes, *(f"careful: {warning}" for warning in warnings)]
    return run


def remaining_steps(
    run: Training, settings: Settings, train_set: Dataset
) -> Iterator[tuple[list[Batch], float]]:
    """Return the batches of this process for the remaining iterations, as ``training.steps`` yields them."""
    batches = training_batches(settings, train_set, iterations=run.remaining_iterations)
    if batches.order.repeat_factors is not None:
        run.notes.append(batches.order.repeat_factors.note)
    every_step = steps(batches, run.schedule.loader_batches)
    return itertools.takewhile(lambda _: not run.is_out_of_patience, every_step)


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
        step.rates,
        images=run.schedule.batch_size,
        data_seconds=waited,
        gradient_norm=step.gradient_norm,
        ema_distance=run.ema_distance,
    )
    if run.iteration == 1:  # after the step was recorded, so that its speed does not include the drawing
        monitor.log_batch(0, batches[0])
