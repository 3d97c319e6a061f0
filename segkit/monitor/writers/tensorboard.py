"""A run's TensorBoard events: everything goes into one file of one run, written by a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from segkit.drawing.overlays import encode
from segkit.monitor.rewinding import rewind

CHARTS = {
    "loss": ["train/loss_(?!aux).*", "val/loss_(?!aux).*"],  # validation has no auxiliary head
    "mIoU": ["val/mIoU"],
    "learning rate": ["train/lr"],
}
DESCRIPTIONS = ("environment", "settings", "network")  # texts that every start writes anew

TELLING = ("data.name", "model.backbone.variant", "model.head.name", "schedule.batch_size", "schedule.lr")
TELLING += ("schedule.length", "model.backbone.width")


class Events:
    """Writes scalars, images, texts and hyperparameters of one run.

    Args:
        folder: the run's.
        start: iterations done before; what an interrupted run wrote beyond is taken out.
        validation_pending: whether the validation of that iteration is still to come; what an earlier
            attempt wrote of it is taken out as well.
    """

    def __init__(self, folder: Path, *, start: int, validation_pending: bool = False) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.hparams import plugin_data_pb2
        from torch.utils.tensorboard import FileWriter, summary  # only here: half a second

        self.summary, self.event = summary, cast(Any, event_pb2)  # its classes are made while importing
        self.hparams_data = cast(Any, plugin_data_pb2)
        again = any(folder.glob("events.out.tfevents.*"))

        def stays(iteration: int, tag: str) -> bool:
            if iteration != start or not start:
                return iteration < start
            group = tag.split("/")[0]
            return group not in DESCRIPTIONS and not (validation_pending and group in ("val", "val_iou"))

        rewind(folder, stays)
        self.writer = FileWriter(str(folder), max_queue=1000, flush_secs=15)
        if again:
            self._forget_after(start)
        layout = {
            "overview": {name: ["Multiline", [f"^{t}$" for t in tags]] for name, tags in CHARTS.items()}
        }
        self.writer.add_summary(summary.custom_scalars(layout))

    def _forget_after(self, start: int) -> None:
        """Tell a TensorBoard that is looking on."""
        version = self.event.Event(file_version="brain.Event:2")
        restart = self.event.Event(session_log={"status": self.event.SessionLog.START})
        for event in (version, restart):
            self.writer.add_event(event, start + 1)

    def _add(self, iteration: int, points: list[dict[str, Any]]) -> None:
        self.writer.add_event(self.event.Event(summary={"value": points}), iteration)

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Several curves' points as one event; a third of the cost of one each."""
        self._add(iteration, [{"tag": tag, "simple_value": value} for tag, value in values.items()])

    def image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """An (H, W, 3) image, as a PNG."""
        height, width, channels = image.shape
        size = {"height": height, "width": width, "colorspace": channels}
        self._add(iteration, [{"tag": tag, "image": {**size, "encoded_image_string": encode(image)}}])

    def text(self, tag: str, iteration: int, markdown: str) -> None:
        """A text in Markdown."""
        self.writer.add_summary(self.summary.text(tag, markdown), iteration)

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Settings for the HPARAMS tab, in this very run; the metrics are tags of its curves.

        Once a run: TensorBoard keeps the first.
        """
        plain = {k: v if type(v) in (int, float) else str(v) for k, v in settings.items()}  # True is no 1.0
        experiment, *session = self.summary.hparams(plain, dict.fromkeys(metrics, 0.0))
        plugin_data = experiment.value[0].metadata.plugin_data
        content = self.hparams_data.HParamsPluginData.FromString(plugin_data.content)
        for info in content.experiment.hparam_infos:
            info.differs = info.name in TELLING  # these come first, and only the first five are shown unasked
        plugin_data.content = content.SerializeToString()
        for part in (experiment, *session):
            self.writer.add_summary(part)

    def flush(self) -> None:
        """Bring everything to the disk."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and end the writing thread."""
        self.writer.close()


def build(folder: Path, start: int, validation_pending: bool) -> Events:  # noqa: FBT001 - a late value
    """The events of a run for TensorBoard.

    Args:
        folder: the run's.
        start: iterations done before.
        validation_pending: whether the validation of that iteration is still to come.
    """
    return Events(folder, start=start, validation_pending=validation_pending)
