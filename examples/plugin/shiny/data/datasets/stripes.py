"""Generated stripes of two colors: a data set without files."""

from __future__ import annotations

import numpy as np

from segkit.config import PositiveInt
from segkit.data.label_map import Entry, LabelMap
from segkit.types import Sample


class Stripes:
    """Images of vertical stripes; the class of a pixel is the color of its stripe."""

    name, on_error = "stripes", "stop"
    table = LabelMap("stripes", (Entry(0, "dark", (40, 40, 40)), Entry(1, "bright", (220, 220, 220))))

    def __init__(self, split: str, count: int, size: int) -> None:
        self.size, self.start = size, 0 if split == "train" else 10_000
        self.names = [f"{split}_{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Sample:
        """Return the sample of an index, generated from that index."""
        rng = np.random.default_rng(self.start + index)
        columns = (np.arange(self.size) // rng.integers(2, 9) + rng.integers(2)) % 2
        label = np.tile(columns.astype(np.uint8), (self.size, 1))
        image = np.where(label[..., None] == 1, 220, 40) + rng.normal(0, 20, (*label.shape, 3))
        return Sample(image.clip(0, 255).astype(np.uint8), label, self.names[index])


def build(split: str, *, count: PositiveInt = 64, size: PositiveInt = 32) -> Stripes:
    """Return ``count`` images of ``size`` x ``size`` pixels."""
    return Stripes(split, count, size)
