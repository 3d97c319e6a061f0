"""TensorBoard events, by ``torch.utils.tensorboard.SummaryWriter``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

PREFIX = "events.out.tfevents."  # of a file's name, before the time of its creation in seconds
CHARTS = {
    "loss": ["train/loss_(?!aux).*", "val/loss_(?!aux).*"],  # validation has no auxiliary head
    "mIoU": ["val/mIoU"],
    "learning rate": ["train/lr"],
}
SHOWN_FIRST = ("data.name", "model.backbone.variant", "model.head.name", "schedule.batch_size", "schedule.lr")
SHOWN_FIRST += ("schedule.length", "model.backbone.width")


class Events:
    """Writes scalars, images, texts and hyperparameters of one run.

    Args:
        folder: of the run.
        start: iterations done before; later events of an interrupted run are purged.
        validation_pending: whether the validation of that iteration is still to come; an interrupted attempt
            is purged as well.
    """

    def __init__(self, folder: Path, *, start: int, validation_pending: bool = False) -> None:
        from tensorboard.plugins.hparams import plugin_data_pb2
        from torch.utils.tensorboard import SummaryWriter, summary  # takes half a second

        self.summary, self.hparams_data = summary, cast(Any, plugin_data_pb2)
        points: dict[str, float] = {}
        purge_step = None
        if any(folder.glob(f"{PREFIX}*")):
            _keep_file_order(folder)
            purge_step = start + 1 if start else 0
            if start and validation_pending:
                purge_step, points = start, _training_points(folder, start)
        self.writer = SummaryWriter(str(folder), purge_step=purge_step, max_queue=1000, flush_secs=15)
        self.add_scalars(start, points)
        layout = {
            "overview": {name: ["Multiline", [f"^{t}$" for t in tags]] for name, tags in CHARTS.items()}
        }
        self.writer.add_custom_scalars(layout)

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record points of several curves."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, iteration)

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Record an (H, W, 3) image, as a PNG."""
        self.writer.add_image(tag, image, iteration, dataformats="HWC")

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Record a text in Markdown."""
        self.writer.add_text(tag, markdown, iteration)

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Record settings for the HPARAMS tab of this run; the metrics are tags of its curves.

        ``SummaryWriter.add_hparams`` would create another run. TensorBoard keeps the first call of a run.
        """
        plain = {k: v if type(v) in (int, float) else str(v) for k, v in settings.items()}  # no bool
        experiment, *session = self.summary.hparams(plain, dict.fromkeys(metrics, 0.0))
        plugin_data = experiment.value[0].metadata.plugin_data
        content = self.hparams_data.HParamsPluginData.FromString(plugin_data.content)
        for info in content.experiment.hparam_infos:
            info.differs = info.name in SHOWN_FIRST  # TensorBoard shows five by default
        plugin_data.content = content.SerializeToString()
        writer = self.writer.file_writer
        assert writer is not None
        for part in (experiment, *session):
            writer.add_summary(part)

    def flush(self) -> None:
        """Write everything to the disk."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()


def _keep_file_order(folder: Path) -> None:
    """Rename event files with times in the future: TensorBoard sorts files by the time in their names.

    If the clock was set back, or a run starts twice within a second, a new file would precede an old one.
    """
    now = int(time.time())
    files = sorted(folder.glob(f"{PREFIX}*"), key=lambda file: file.name)
    times = [file.name.removeprefix(PREFIX).partition(".") for file in files]
    if all(created.isdigit() and int(created) < now for created, _, _ in times):
        return
    for index, (file, (_, _, rest)) in enumerate(zip(files, times, strict=True)):
        file.rename(folder / f"{PREFIX}{now - len(files) + index:010d}.{rest}")


def _training_points(folder: Path, iteration: int) -> dict[str, float]:
    """Return the last points of the training's curves, if they are of this iteration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1, "images": 1, "tensors": 1}).Reload()
    last = {tag: events.Scalars(tag)[-1] for tag in events.Tags()["scalars"]}
    return {
        tag: point.value
        for tag, point in last.items()
        if point.step == iteration and not tag.startswith(("val/", "val_iou/"))
    }


def build(folder: Path, start: int, validation_pending: bool) -> Events:  # noqa: FBT001
    """Build the writer of TensorBoard events."""
    return Events(folder, start=start, validation_pending=validation_pending)
