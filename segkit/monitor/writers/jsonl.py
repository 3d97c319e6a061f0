"""``curves.jsonl``: the points of all curves as lines of JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.runtime import files


class JsonLines:
    """Appends ``{"iteration": 10, "train/loss": 1.2, ...}``; NaN and infinity become null."""

    def __init__(self, path: Path, *, start: int, validation_pending: bool) -> None:
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _precedes(line, start, validation_pending=validation_pending)]
            files.write_text(path, "".join(kept))
        self.file = path.open("a", encoding="utf-8")

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write a line."""
        self.file.write(json.dumps(files.to_json_values({"iteration": iteration, **values})) + "\n")

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Do nothing."""

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Do nothing."""

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Do nothing: checkpoints contain the settings."""

    def flush(self) -> None:
        """Write everything to disk."""
        self.file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.file.close()


def _precedes(line: str, start: int, *, validation_pending: bool) -> bool:
    """Return whether a line was written before the resumed iteration; an incomplete line was not."""
    try:
        values = json.loads(line)
    except ValueError:
        return False
    is_repeated = validation_pending and any(tag.startswith("val") for tag in values)
    return values["iteration"] < start or (values["iteration"] == start > 0 and not is_repeated)


def build(folder: Path, start: int, validation_pending: bool) -> JsonLines:  # noqa: FBT001
    """Build the writer of ``curves.jsonl``."""
    return JsonLines(folder / "curves.jsonl", start=start, validation_pending=validation_pending)
