"""Writes the mIoU of each validation to ``scores.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Scores:
    """Appends to a file, also when the run is resumed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write a line if the values are those of a validation."""
        if "val/mIoU" in values:
            with self.file.open("a") as file:
                file.write(f"{iteration},{values['val/mIoU']:.6f}\n")

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Do nothing."""

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Do nothing."""

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing: every line is written at once."""

    def close(self) -> None:
        """Do nothing: no file is kept open."""


def build(folder: Path) -> Scores:
    """Return the writer for a run folder."""
    return Scores(folder / "scores.csv")
