"""From settings to the parts of a training, for a loop of one's own; ``examples/own_loop.py`` is one.

Settings are those of ``segkit.composed("train", ["model=...", "data=..."])``, as the command composes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit import checkpoint
from segkit.config import registry
from segkit.config.values import expand_home
from segkit.data import loaders, transforms
from segkit.models import segmenter
from segkit.types import ClassTable, Dataset, Loss

Settings = Mapping[str, Any]


def build_dataset(settings: Settings, split: str = "train") -> Dataset:
    """The data set of ``data=...``; ``len``, ``read(index) -> Sample`` and ``table`` are what it offers.

    Args:
        settings: ``data``.
        split: ``train`` or ``val``.

    Raises:
        ValueError: files or folders are not as they should be.
    """
    return registry.build("data.datasets", settings["data"], split=split)


def build_model(settings: Settings, num_classes: int) -> segmenter.Segmenter:
    """The network of ``model=...``: a module from images (B, 3, H, W), uint8 or normalized, to ``Logits``.

    Args:
        settings: ``model``.
        num_classes: K, such as ``dataset.table.num_classes``.

    Raises:
        ValueError: a part refuses its settings, or weights do not fit.
        OSError: weights could not be downloaded.
    """
    return segmenter.build(num_classes, **settings["model"])


def build_loss(settings: Settings, num_classes: int) -> Loss:
    """The loss of ``loss=...``: from (``Logits``, label (B, H, W)) to named parts, to be summed.

    Raises:
        ValueError: it refuses its settings.
    """
    return registry.build("losses", settings["loss"], num_classes=num_classes)


def training_batches(settings: Settings, dataset: Dataset, *, iterations: range) -> loaders.TrainingLoader:
    """Augmented batches of one process, ``Batch`` of image (B, 3, H, W) uint8 and label (B, H, W).

    Args:
        settings: ``augment``, ``schedule.batch_size``, ``seed`` and ``loader``.
        dataset: of any kind that keeps the contract.
        iterations: ``range(first, end)``; a stream that goes on at ``first`` equals one that never stopped.

    Raises:
        ValueError: while iterating, a sample cannot be read.
    """
    transform, batch_size = transforms.build(**settings["augment"]), settings["schedule"]["batch_size"]
    order = loaders.SampleOrder(len(dataset), settings["seed"], batch_size)
    workers = settings["loader"]["workers"]
    return loaders.training_loader(dataset, transform, order, iterations=iterations, workers=workers)


def save(model: segmenter.Segmenter, file: str | Path, *, settings: Settings, table: ClassTable) -> None:
    """Write a checkpoint that ``segkit.load`` and the commands take.

    Args:
        model: as ``build_model`` made it of the same settings.
        file: appears whole or not at all.
        settings: of the training.
        table: the classes, ``dataset.table``.

    Raises:
        OSError: it cannot be written.
    """
    licenses = checkpoint.start_ledger(dict(settings))
    about = {"settings": dict(settings), "classes": table.to_plain(), "licenses": licenses}
    path = Path(expand_home(str(file)))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, {**about, "iteration": 0, "model": model.state_dict()})
