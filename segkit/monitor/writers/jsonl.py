"""Every point of every curve as a line of JSON, for scripts: ``curves.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.runtime import files


class JsonLines:
    """Appends ``{"iteration": 10, "train/loss": 1.2, ...}``; a number that is not finite is null."""

    def __init__(self, path: Path, *, start: int, validation_pending: bool) -> None:
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _stays(line, start, validation_pending=validation_pending)]
            with files.atomic_write(path) as file:
                file.write("".join(f"{line}\n" for line in kept).encode())
        self.file = path.open("a", encoding="utf-8")

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """One line."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self.file.write(json.dumps({"iteration": iteration, **finite}) + "\n")

    def image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Not recorded."""

    def text(self, tag: str, iteration: int, markdown: str) -> None:
        """Not recorded."""

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Not recorded: they stand in the checkpoint."""

    def flush(self) -> None:
        """Bring everything to the disk."""
        self.file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.file.close()


def _stays(line: str, start: int, *, validation_pending: bool) -> bool:
    """Whether a line is of what the run did before ``start``; one that was cut off is not."""
    try:
        values = json.loads(line)
    except ValueError:
        return False
    repeated = validation_pending and any(tag.startswith("val") for tag in values)
    return values["iteration"] < start or (values["iteration"] == start > 0 and not repeated)


def build(folder: Path, start: int, validation_pending: bool) -> JsonLines:  # noqa: FBT001 - a late value
    """The curves of a run as ``curves.jsonl`` in its folder.

    Args:
        folder: the run's.
        start: iterations done before; lines beyond it are taken out.
        validation_pending: whether the validation of that iteration is still to come.
    """
    return JsonLines(folder / "curves.jsonl", start=start, validation_pending=validation_pending)
