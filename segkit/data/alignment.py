"""Data sets whose class table lists a network's classes in another order: class ids are matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.types import Dataset, Sample, ignore_index


class AlignedDataset:
    """A data set whose labels have the class ids of a network; ids and colors of the table stay its own."""

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
    """Return the data set with its classes in the order of a network's.

    Args:
        dataset: any.
        names: of the network's classes in order; None where a network does not know them.

    Raises:
        ValueError: the names are others than those of the data set; the message lists both.
    """
    if names is None or list(dataset.table.names) == list(names):
        return dataset
    return AlignedDataset(dataset, as_label_map(dataset.table).reorder(names, "the network"))


def as_label_map(table: Any) -> LabelMap:
    """Return a class table of any kind as a ``LabelMap``."""
    return table if isinstance(table, LabelMap) else LabelMap.from_plain(table.to_plain())
