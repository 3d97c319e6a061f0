"""``curves.jsonl``: the points of all curves as lines of JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from segkit.runtime import files
from segkit.types import Writer


class JsonLines(Writer):
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
    if values["iteration"] != start:
        return values["iteration"] < start
    is_repeated = validation_pending and any(tag.startswith("val") for tag in values)
    return start > 0 and not is_repeated


def build(folder: Path, start: int, validation_pending: bool) -> JsonLines:  # noqa: FBT001
    """Build the writer of ``curves.jsonl``."""
    return JsonLines(folder / "curves.jsonl", start=start, validation_pending=validation_pending)
