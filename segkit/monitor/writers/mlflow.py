"""A run at MLflow (the extra ``segkit[mlflow]``): ``writers.mlflow=true``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.monitor.writers import _tracker
from segkit.runtime.extras import import_extra
from segkit.types import Writer

BATCH = 100  # most parameters in one call


class MlflowRun(Writer):
    """Records curves as metrics, images, texts and best.pt as artifacts, and settings as parameters.

    Arguments are those of ``build``. ``mlflow.json`` in the folder has the id that a resumed run continues.
    """

    def __init__(
        self, folder: Path, *, start: int, experiment: str, uri: str | None, checkpoint: bool
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = import_extra("mlflow", extra="mlflow", needed_by="writers.mlflow=true")
        self.entities = mlflow.entities
        local = folder.parent.absolute()
        self.client = mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{local}/mlflow.db")
        self.folder, self.checkpoint = folder, checkpoint
        self.state = _tracker.TrackerState(folder / "mlflow.json", start=start, service="MLflow")
        if self.state.run_id is None:
            existing = self.client.get_experiment_by_name(experiment)
            if existing:
                number = existing.experiment_id
            else:
                artifacts = None if uri else (local / "mlflow-artifacts").as_uri()
                number = self.client.create_experiment(experiment, artifacts)
            self.state.run_id = self.client.create_run(number, run_name=folder.name).info.run_id
            self.state.save()
        else:
            self.client.update_run(self.state.run_id, status="RUNNING")
        self.run_id = self.state.run_id

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record the points that MLflow does not have yet."""
        now = int(time.time() * 1000)

        def log(new: Mapping[str, float]) -> None:
            metrics = [self.entities.Metric(clean_name(t), float(v), now, iteration) for t, v in new.items()]
            self.client.log_batch(self.run_id, metrics=metrics)

        self.state.record(iteration, values, log)

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Record an (H, W, 3) image as a PNG; the same iteration overwrites it."""
        self.state.send(self.client.log_image, self.run_id, image, artifact_file=f"{tag}_{iteration:07d}.png")

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Record a text in Markdown; the same iteration overwrites it."""
        self.state.send(self.client.log_text, self.run_id, markdown, f"{tag}_{iteration:07d}.md")

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Record settings as parameters; MLflow keeps the first value of each."""
        existing: dict[str, str] = {}
        if not self.state.send(lambda: existing.update(self.client.get_run(self.run_id).data.params)):
            return
        new = {clean_name(key): str(value) for key, value in settings.items()}
        params = [self.entities.Param(key, value) for key, value in new.items() if key not in existing]
        for begin in range(0, len(params), BATCH):
            self.state.send(self.client.log_batch, self.run_id, params=params[begin : begin + BATCH])

    def close(self) -> None:
        """Record best.pt and end the run."""
        best = self.folder / "best.pt"
        if self.checkpoint and best.is_file():
            self.state.send(self.client.log_artifact, self.run_id, str(best))
        status = "KILLED" if _tracker.is_interrupted() else "FINISHED"
        self.state.send(self.client.set_terminated, self.run_id, status)


def clean_name(name: str) -> str:
    """Return a name that MLflow accepts: letters, digits, ``_-. /``, and no part that a path would drop."""
    parts = re.sub(r"[^/\w.\- ]", "_", name).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def build(
    folder: Path,
    start: int,
    *,
    experiment: str = "segkit",
    uri: str | None = None,
    checkpoint: bool = True,
) -> MlflowRun:
    """Build the run at MLflow.

    Args:
        folder: of the run.
        start: iterations done before.
        experiment: MLflow's experiment.
        uri: of the server or database; None: $MLFLOW_TRACKING_URI, or ``mlflow.db`` beside the run folders.
        checkpoint: whether best.pt is recorded at the end.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return MlflowRun(folder, start=start, experiment=experiment, uri=uri, checkpoint=checkpoint)
