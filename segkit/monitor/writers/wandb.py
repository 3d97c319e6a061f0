"""A run at Weights & Biases (the extra ``segkit[wandb]``): ``writers.wandb=true``, offline unless asked."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.monitor.writers import _tracker
from segkit.runtime.extras import import_extra
from segkit.types import Writer


class WandbRun(Writer):
    """Records curves, images, class tables, texts as files, settings as config, and best.pt at the end.

    Arguments are those of ``build``; ``options`` of ``wandb.init``. The folder receives ``wandb/`` and
    ``wandb.json``, the id that a resumed run continues.
    """

    def __init__(self, folder: Path, *, start: int, checkpoint: bool, **options: Any) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.wandb = import_extra("wandb", extra="wandb", needed_by="writers.wandb=true")
        self.folder, self.checkpoint = folder, checkpoint
        self.state = _tracker.TrackerState(folder / "wandb.json", start=start, service="Weights & Biases")
        if self.state.run_id is None:
            self.state.run_id = uuid.uuid4().hex[:8]
            self.state.save()
        quiet = self.wandb.Settings(console="off", silent=True, symlink=False, disable_git=True)
        self.run = self.wandb.init(
            id=self.state.run_id,
            name=folder.name,
            dir=str(folder),
            resume="allow",
            reinit="create_new",
            settings=quiet,
            **options,
        )
        # the service drops points whose step is not the next one, so steps count calls
        self.run.define_metric("*", step_metric="iteration")

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record points of several curves, without those that W&B already has."""
        self._log(iteration, values)

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Record an (H, W, 3) image."""
        self._log(iteration, {tag: self.wandb.Image(image)})

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Record a Markdown table as a table, another text as a file of the run."""
        rows = [line.strip().strip("|").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
        if len(rows) > 2:
            cells = [[cell.strip() for cell in row] for row in rows]
            self._log(iteration, {tag: self.wandb.Table(columns=cells[0], data=cells[2:])})
            return
        file = Path(self.run.dir, f"{tag}.md")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(markdown, encoding="utf-8")

    def _log(self, iteration: int, values: Mapping[str, Any]) -> None:
        self.state.record(iteration, values, lambda new: self.run.log({**new, "iteration": iteration}))

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Record settings as the config of the run."""
        self.state.send(self.run.config.update, dict(settings), allow_val_change=True)

    def close(self) -> None:
        """Record best.pt and end the run."""
        best = self.folder / "best.pt"
        if self.checkpoint and best.is_file():
            artifact = self.wandb.Artifact(f"{self.folder.name}-{self.state.run_id}", type="model")
            artifact.add_file(str(best))
            self.state.send(self.run.log_artifact, artifact)
        self.state.send(self.run.finish, exit_code=int(_tracker.is_interrupted()))


def build(
    folder: Path,
    start: int,
    *,
    project: str = "segkit",
    entity: str | None = None,
    mode: Literal["offline", "online"] = "offline",
    checkpoint: bool = True,
) -> WandbRun:
    """Build the run at Weights & Biases.

    Args:
        folder: of the run.
        start: iterations done before.
        project: of the service.
        entity: user or team; None: the account's default.
        mode: ``offline`` writes to ``FOLDER/wandb``, which ``wandb sync`` uploads.
        checkpoint: whether best.pt is recorded at the end.
    """
    options = {"project": project, "entity": entity, "mode": mode}
    return WandbRun(folder, start=start, checkpoint=checkpoint, **options)
