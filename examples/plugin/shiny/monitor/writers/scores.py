"""The scores of each validation as a line of ``scores.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Scores:
    """Appends to a file, which a resumed run goes on with."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """A line, if these are the values of a validation."""
        if "val/mIoU" in values:
            with self.file.open("a") as file:
                file.write(f"{iteration},{values['val/mIoU']:.6f}\n")

    def image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Not recorded."""

    def text(self, tag: str, iteration: int, markdown: str) -> None:
        """Not recorded."""

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Not recorded."""

    def flush(self) -> None:
        """Nothing waits to be written."""

    def close(self) -> None:
        """Nothing is open."""


def build(folder: Path) -> Scores:
    """In the folder of the run."""
    return Scores(folder / "scores.csv")
