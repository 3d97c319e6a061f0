"""What a person sees of a training run: TensorBoard, one progress line, and a log file.

Iterations are counted as steps done, so a checkpoint taken at N and a point drawn at N belong together and a
resumed run draws what an unbroken one would: logged values are those of one step, never of a window.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from segkit.config import registry
from segkit.config.dotted import flat
from segkit.monitor.banners import duration
from segkit.monitor.console import LOG, Console
from segkit.monitor.profiling import profile_steps
from segkit.monitor.versions import environment, environment_text
from segkit.runtime import distributed
from segkit.types import Batch, Sample, Writer
from segkit.visualize import overlays
from segkit.visualize.tables import (
    class_scores,
    format_class_table,
    format_code_block,
    format_markdown_table,
    format_percent,
    most_confused_pairs,
    worst_and_best_classes,
)

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["Monitor", "environment", "environment_text", "format_class_table", "profile_steps"]

MANY = 30  # classes above which only the worst and best ten are drawn and printed
FORECAST = 50  # iterations after which the time of the whole run is told
Scalar = Tensor | float


class Monitor:
    """Records one run; does nothing on processes other than the main one.

    Args:
        folder: the run's; receives the events and ``train.log``.
        start: iterations done before, by the run that is resumed.
        validation_pending: whether the validation of that iteration is still to come.
        total: iterations of the whole run.
        iterations_per_epoch: to show epochs.
        names: of the classes.
        colors: of the classes, (K, 3) uint8.
        every: iterations between two points of the training curves.
        writers: where to, beside the screen: settings of components of ``monitor.writers``, by name.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each thing that a run knows
        self,
        folder: Path,
        *,
        start: int = 0,
        validation_pending: bool = False,
        total: int,
        iterations_per_epoch: float,
        names: Sequence[str],
        colors: np.ndarray,
        every: int = 10,
        writers: Mapping[str, Any] = MappingProxyType({"tensorboard": True}),
    ) -> None:
        self.active, self.folder = distributed.is_main(), folder
        self.start, self.total, self.every = start, total, every
        self.iterations_per_epoch = iterations_per_epoch
        self.names, self.colors = list(names), colors
        self.smooth: float | None = None  # of the loss, for the console alone
        self.last_miou: float | None = None
        self.images, self.waited, self.steps, self.clock = 0, 0.0, 0, time.perf_counter()
        self.writers: dict[str, Writer] = {}  # none on other processes, and none once closed
        if self.active:
            folder.mkdir(parents=True, exist_ok=True)
            self.console = Console(folder / "train.log", start=start, total=total)
            late = {"folder": folder, "start": start, "validation_pending": validation_pending}
            self.writers = registry.build_enabled("monitor.writers", writers, **late)
            self.text("environment", environment_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(
        self,
        iteration: int,
        losses: Mapping[str, Scalar],
        learning_rates: Mapping[str, float],
        *,
        images: int,
        data_seconds: float,
        gradient_norm: Scalar | None = None,
        ema_distance: Callable[[], Scalar | None] = lambda: None,
    ) -> None:
        """Record a training step; tensors are read, and the device waited for, only where a point is drawn.

        Args:
            iteration: steps done, this one included.
            losses: parts by name; their sum is the loss.
            learning_rates: by parameter group; the first is the run's.
            images: of this step, over all processes.
            data_seconds: waited for the batch.
            gradient_norm: before clipping.
            ema_distance: asked, where a point is drawn, how far averaged weights are from the trained ones.
        """
        if not self.active:
            return
        self.images, self.steps = self.images + images, self.steps + 1
        self.waited += data_seconds
        self.console.advance(iteration)
        if iteration == self.start + FORECAST and self.total > self.start + 4 * FORECAST:
            left = (time.perf_counter() - self.console.began) / FORECAST * (self.total - iteration)
            self.log_message(
                f"at the speed of the first {FORECAST} iterations: {duration(left)} to go, and validations"
            )
        if iteration % self.every and iteration not in (self.start + 1, self.total):
            return
        measured = {"norm_gradient": gradient_norm, "norm_ema_distance": ema_distance()}
        read = _numbers({**losses, **{k: v for k, v in measured.items() if v is not None}})
        loss = math.fsum(read[name] for name in losses)
        if iteration % self.every == 0 or iteration == self.total:
            parts = {f"train/loss_{name}": read[name] for name in losses}
            rates = list(learning_rates.items())
            groups = {f"train/lr_{name}": rate for name, rate in rates} if len(rates) > 1 else {}
            others = {f"train/{name}": read[name] for name in measured if name in read}
            epoch = iteration / self.iterations_per_epoch
            curves = {"train/loss": loss, **parts, "train/lr": rates[0][1], **groups, **others}
            for writer in self.writers.values():
                writer.scalars(iteration, {**curves, "train/passed_epochs": epoch, **self._speed()})
        self._show(iteration, loss, next(iter(learning_rates.values())))
        self._rest()

    def scores(
        self,
        iteration: int,
        scores: Mapping[str, float],
        class_iou: Sequence[float] | np.ndarray,
        *,
        losses: Mapping[str, float] | None = None,
        counts: np.ndarray | None = None,
    ) -> None:
        """Record a validation: curves, classes, the loss's parts, and with ``counts`` (K, K) confusions."""
        if not self.active:
            return
        iou = [float(value) for value in class_iou]
        shown = (
            worst_and_best_classes(iou, 10)
            if len(iou) > MANY
            else [k for k in range(len(iou)) if iou[k] == iou[k]]
        )
        curves = {f"val/{name}": float(value) for name, value in scores.items()}
        if losses:
            parts = {f"val/loss_{name}": value for name, value in losses.items()}
            curves |= {"val/loss": math.fsum(losses.values()), **parts}
        for writer in self.writers.values():
            writer.scalars(iteration, curves | {f"val_iou/{self.names[k]}": iou[k] for k in shown})
        columns = {"IoU": iou}
        if counts is not None:
            counts = np.asarray(counts)
            columns = {name: column.tolist() for name, column in class_scores(counts).items()} | columns
            self.image("val/confusion", iteration, overlays.draw_confusion_matrix(counts, self.names))
            self.text("val/confusions", self._confusions(counts), iteration)
        rows = [[self.names[k], *(format_percent(c[k]) for c in columns.values())] for k in range(len(iou))]
        self.text("val/classes", format_markdown_table(["class", *columns], rows), iteration)
        self.last_miou = scores.get("mIoU")
        facts = "  ".join(f"{name} {format_percent(value)}" for name, value in scores.items())
        self.log_message(
            f"validation at {iteration} (epoch {iteration / self.iterations_per_epoch:.2f}), in %: {facts}"
        )
        some = {name: [column[k] for k in shown] for name, column in columns.items()}
        self.log_message(format_class_table([self.names[k] for k in shown], some))
        self.flush()
        self._rest()

    def image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Record an image (H, W, 3) uint8."""
        for writer in self.writers.values():
            writer.image(tag, iteration, image)
        self._rest()

    def samples(self, iteration: int, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> None:
        """Record validation samples, the same each time: image, truth, prediction, error and legend.

        The sheet is also written to ``samples.png``.
        """
        if self.active and samples:
            sheet = overlays.draw_sheet(samples, self.names, self.colors, predictions=predictions)
            self.image("val/samples", iteration, sheet)
            overlays.save_image(self.folder / "samples.png", sheet)

    def batch(self, iteration: int, batch: Batch, *, most: int = 8) -> None:
        """Record what the network really sees: augmented images and labels."""
        if self.active:
            images = batch.image[:most].permute(0, 2, 3, 1).cpu().numpy()
            triples = zip(images, batch.label[:most].cpu().numpy(), batch.names, strict=False)
            seen = [
                Sample(np.ascontiguousarray(image), label, name, batch.bands)
                for image, label, name in triples
            ]
            self.image("train/samples", iteration, overlays.draw_sheet(seen, self.names, self.colors))

    def text(self, tag: str, markdown: str, iteration: int | None = None) -> None:
        """Record a text in Markdown."""
        for writer in self.writers.values():
            writer.text(tag, self.start if iteration is None else iteration, markdown)

    def describe(self, settings: Mapping[str, Any], *, network: str) -> None:
        """Record what is trained: the settings, as text and in the table of runs, and the network."""
        self.text("settings", format_code_block(json.dumps(settings, indent=2, ensure_ascii=False)))
        self.text("network", format_code_block(network))
        self.hparams(flat(settings) | {"schedule.length": self.total})
        self._rest()

    def hparams(self, settings: Mapping[str, Any], scores: Sequence[str] = ("mIoU", "pixAcc")) -> None:
        """Record flat settings for the table of runs, beside the last value of some validation scores."""
        for writer in self.writers.values():
            writer.hparams(settings, [f"val/{name}" for name in scores])

    def log_message(self, line: str) -> None:
        """One message, above the progress line and in the log file."""
        if self.active:
            LOG.info(line)

    def flush(self) -> None:
        """Bring all events to the disk; called before a checkpoint, so a resumed run leaves no gap."""
        for writer in self.writers.values():
            writer.flush()

    def close(self) -> None:
        """Write what is left and end the progress line."""
        if self.active:
            for writer in self.writers.values():
                writer.close()
            self.active, self.writers = False, {}
            self.console.close()

    def _speed(self) -> dict[str, float]:
        """What depends on the machine and the hour, since the last point."""
        seconds = time.perf_counter() - self.clock
        unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
        speeds = {
            "wall/images_per_second": self.images / seconds,
            "wall/step_seconds": seconds / self.steps,
            "wall/data_share": self.waited / seconds,
        }
        if resource is not None:
            speeds["wall/host_GiB_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        if torch.cuda.is_available():
            speeds["wall/device_GiB_peak"] = torch.cuda.max_memory_allocated() / 2**30
        return speeds

    def _show(self, iteration: int, loss: float, rate: float) -> None:
        self.smooth = loss if self.smooth is None else 0.8 * self.smooth + 0.2 * loss
        speed = self.images / (time.perf_counter() - self.clock)
        facts = f"loss {self.smooth:.4f}, lr {rate:.1e}, {speed:.1f} images/s"
        if self.last_miou is not None:
            facts += f", mIoU {format_percent(self.last_miou)}"
        self.console.progress(iteration, facts)

    def _rest(self) -> None:
        """Start measuring speed anew, so that validating and drawing do not count as training."""
        self.images, self.waited, self.steps, self.clock = 0, 0.0, 0, time.perf_counter()

    def _confusions(self, counts: np.ndarray) -> str:
        rows = [
            [self.names[t], self.names[p], pixels, format_percent(share)]
            for t, p, pixels, share in most_confused_pairs(counts, 15)
        ]
        return format_markdown_table(["truth", "taken for", "pixels", "% of the truth"], rows)


def _numbers(values: Mapping[str, Scalar]) -> dict[str, float]:
    """Read tensors from the device in one go."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    scalars = [tensor.detach().float().flatten()[0] for tensor in tensors.values()]
    read = torch.stack(scalars).tolist() if scalars else []
    return {name: float(value) for name, value in values.items() if name not in tensors} | dict(
        zip(tensors, read, strict=True)
    )
