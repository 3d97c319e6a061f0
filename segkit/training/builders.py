"""Build the parts of a training from settings, for a training loop of your own (``examples/own_loop.py``).

Settings are those of ``segkit.compose_settings("train", ["model=...", "data=..."])``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit import checkpoint
from segkit.config import registry
from segkit.config.values import expand_home
from segkit.data import loaders, sampling, transforms
from segkit.models import segmenter
from segkit.types import ClassTable, Dataset, Loss

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
    """Return augmented batches: image (B, 3, H, W) uint8 and label (B, H, W).

    Args:
        settings: ``augment``, ``schedule.batch_size``, ``seed`` and ``loader``.
        dataset: any ``Dataset``.
        iterations: ``range(first, end)``; batches do not depend on where the range starts.

    Raises:
        ValueError: while iterating, a sample cannot be read.
    """
    loader, batch_size = settings["loader"], settings["schedule"]["batch_size"]
    factors = sampling.build_repeat_factors(dataset, loader["sampling"], loader["repeat_threshold"])
    order = loaders.SampleOrder(len(dataset), settings["seed"], batch_size, repeat_factors=factors)
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
    content = {
        "settings": dict(settings),
        "classes": table.to_plain(),
        "licenses": checkpoint.start_ledger(dict(settings)),
        "iteration": 0,
        "model": model.state_dict(),
    }
    checkpoint.write_checkpoint(path, content)
