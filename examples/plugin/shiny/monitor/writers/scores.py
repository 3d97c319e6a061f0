"""Writes the mIoU of each validation to ``scores.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segkit.types import Writer


class Scores(Writer):
    """Appends to a file, also when the run is resumed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write a line if the values are those of a validation."""
        if "val/mIoU" in values:
            with self.file.open("a") as file:
                file.write(f"{iteration},{values['val/mIoU']:.6f}\n")


def build(folder: Path) -> Scores:
    """Return the writer for a run folder."""
    return Scores(folder / "scores.csv")
