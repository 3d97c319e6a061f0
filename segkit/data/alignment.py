"""Match the class ids of a data set to those of a network, by class name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.types import Dataset, Sample, ignore_index


class AlignedDataset:
    """Data set with labels in the class ids of a network; its table keeps its own ids and colors."""

    def __init__(self, dataset: Dataset, table: LabelMap) -> None:
        self.dataset = dataset
        self.table: Any = table
        self.name, self.names, self.on_error = dataset.name, dataset.names, dataset.on_error
        self.lookup = np.arange(ignore_index(table.num_classes) + 1)
        self.lookup[: table.num_classes] = [table.names.index(name) for name in dataset.table.names]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """Return a sample with its label in the class ids of the network."""
        sample = self.dataset.read(index)
        return sample._replace(label=self.lookup.astype(sample.label.dtype)[sample.label])


def align_dataset(dataset: Dataset, names: Sequence[str] | None) -> Dataset:
    """Return a data set with its classes in the order of a network's, ``names``; None: they are unknown.

    Raises:
        ValueError: network and data set have different class names.
    """
    if names is None or list(dataset.table.names) == list(names):
        return dataset
    return AlignedDataset(dataset, as_label_map(dataset.table).reorder(names, "the network"))


def as_label_map(table: Any) -> LabelMap:
    """Return a class table of any kind as a ``LabelMap``."""
    if isinstance(table, LabelMap):
        return table
    return LabelMap.from_plain(table.to_plain())
