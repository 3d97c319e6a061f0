"""A trained model as a second opinion on the labels of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from segkit.config import registry
from segkit.data.alignment import align_dataset, as_label_map
from segkit.data.label_map import DataError
from segkit.inference import predictor
from segkit.tools.doctor.findings import Key
from segkit.tools.doctor.labels import Opinion, Suspect, compare_label, rank_images
from segkit.types import Dataset


class Model:
    """A model and the splits of a data set in its class order.

    Args:
        file: checkpoint or exported file.
        datasets: by split. Their bands become those of the model.
        plugins: packages that hold components of the model.

    Raises:
        ValueError: the file is not a model, or its classes differ from those of the data.
    """

    def __init__(self, file: str, datasets: Mapping[str, Any], *, plugins: Sequence[str] = ()) -> None:
        self.predictor = predictor.load(file, plugins=plugins)
        self.pairs = datasets
        for dataset in datasets.values():
            dataset.bands = self.predictor.bands
        self.datasets: dict[str, Dataset] = {
            split: align_dataset(dataset, self.predictor.table.names) for split, dataset in datasets.items()
        }
        self.table = as_label_map(next(iter(self.datasets.values())).table)
        self.training_files = find_training_files(self.predictor.data)

    def compare(self, key: Key) -> Opinion:
        """Return the opinion on an image; raise ``DataError`` if it or its mask cannot be read."""
        sample = self.datasets[key.split].read(key.position)
        probabilities = self.predictor.probabilities(sample.image)
        prediction = probabilities.argmax(0).astype(sample.label.dtype)
        return Opinion(sample, *compare_label(probabilities, sample.label), prediction)

    @cached_property
    def ranking(self) -> list[Suspect]:
        """All readable images by how likely their labels are wrong; computed with a progress bar."""
        keys = [
            Key(split, position, name)
            for split, dataset in self.datasets.items()
            for position, name in enumerate(dataset.names)
        ]
        cv2.setNumThreads(0)
        images = []
        for key in tqdm(keys, "predict", unit="image", smoothing=0, disable=None):
            try:
                opinion = self.compare(key)
            except DataError:  # reported by the scan
                continue
            is_trained_on = None
            if self.training_files is not None:
                file = self.pairs[key.split].pairs[key.position].image
                is_trained_on = _identify_file(file) in self.training_files
            images.append(Suspect(key, is_trained_on, opinion.comparison))
        return rank_images(images)


def find_training_files(data: Mapping[str, Any]) -> set[tuple[int, int]] | None:
    """Return device and inode of the images of training settings; None if they cannot be found."""
    try:
        train = registry.build("data.datasets", {**data, "on_error": "skip"}, split="train")
        return {_identify_file(pair.image) for pair in train.pairs}
    except (ValueError, OSError, TypeError, KeyError, AttributeError):
        return None


def _identify_file(path: Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - follows links, as opening does
    return status.st_dev, status.st_ino
