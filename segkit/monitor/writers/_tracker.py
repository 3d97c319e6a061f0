"""Resumed runs and failing services, for the writers of MLflow and Weights & Biases."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segkit.runtime import files

LOG = logging.getLogger("segkit")


class TrackerState:
    """Id of the run at a service and last iteration of each curve, stored in the run folder.

    Services do not remove points. Those beyond the last checkpoint of an interrupted run stay and are not
    recorded again.
    """

    def __init__(self, file: Path, *, start: int, service: str) -> None:
        self.file, self.service = file, service
        stored: dict[str, Any] = {}
        if file.is_file():
            stored = json.loads(file.read_text(encoding="utf-8"))
        self.run_id: str | None = stored.get("run_id")
        self.last: dict[str, int] = stored.get("last", {})
        self.failures: set[str] = set()
        furthest = max(self.last.values(), default=0)
        if furthest > start:
            stay = f"those of iterations {start + 1} to {furthest} stay and are not recorded again"
            LOG.warning("%s cannot remove points: %s", service, stay)

    def record(self, iteration: int, values: Mapping[str, Any], log: Callable[[dict[str, Any]], Any]) -> None:
        """Log the values whose curves do not reach this iteration yet, and store that they do."""
        new = {tag: value for tag, value in values.items() if iteration > self.last.get(tag, -1)}
        if new and self.send(log, new):
            self.last |= dict.fromkeys(new, iteration)
            self.save()

    def save(self) -> None:
        """Write the state to the run folder."""
        files.write_json(self.file, {"run_id": self.run_id, "last": self.last})

    def send(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Call the service; a failure is logged once for each kind of error and never stops the training."""
        try:
            call(*args, **kwargs)
        except Exception as error:
            kind = type(error).__name__
            if kind not in self.failures:
                self.failures.add(kind)
                LOG.warning("%s does not record this: %s: %s", self.service, kind, error)
            return False
        return True


def is_interrupted() -> bool:
    """Return whether an exception is ending the run."""
    return sys.exc_info()[0] is not None
