"""Record a training run with writers such as TensorBoard, and on the console.

Iterations are counted as steps done, so a checkpoint and a point with the same number belong together, and a
resumed run records what an uninterrupted one would: values are those of one step, not means over several.
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
from segkit.monitor.console import LOG, Console
from segkit.monitor.versions import describe_environment
from segkit.runtime import distributed
from segkit.types import Batch, Sample, Writer
from segkit.visualize import overlays
from segkit.visualize.tables import (
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

MANY_CLASSES = 30  # above, only the worst and best ten are recorded as curves and printed
POINT_EVERY = 10  # iterations between two points of the training curves
BATCH_IMAGES = 8  # of a batch that are drawn
CONFUSED_PAIRS = 15  # in the table of confusions
Scalar = Tensor | float


class Monitor:
    """Records one run; does nothing on processes other than the main one.

    Args:
        folder: of the run; receives ``train.log`` and the files of the writers.
        start: iterations done before, by the run that is resumed.
        validation_pending: whether the validation of that iteration is still to come.
        iterations_per_epoch: to convert iterations to epochs.
        colors: of the classes, (K, 3) uint8.
        writers: settings of the components of ``monitor.writers``, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int = 0,
        validation_pending: bool = False,
        total: int,
        iterations_per_epoch: float,
        names: Sequence[str],
        colors: np.ndarray,
        writers: Mapping[str, Any] = MappingProxyType({"tensorboard": True}),
    ) -> None:
        self.active, self.folder = distributed.is_main(), folder
        self.start, self.total = start, total
        self.iterations_per_epoch = iterations_per_epoch
        self.names, self.colors = list(names), colors
        self.smooth_loss: float | None = None  # for the console
        self.last_miou: float | None = None
        self.writers: dict[str, Writer] = {}  # empty on other processes, and once closed
        self._restart_clock()
        if self.active:
            folder.mkdir(parents=True, exist_ok=True)
            self.console = Console(folder / "train.log", start=start, total=total)
            arguments = {"folder": folder, "start": start, "validation_pending": validation_pending}
            try:
                self.writers = registry.build_enabled("monitor.writers", writers, **arguments)
            except BaseException:
                self.console.close()  # otherwise the logger would keep its handlers
                raise
            rows = [[name, f"`{value}`"] for name, value in describe_environment().items()]
            self.log_text("environment", format_markdown_table(["name", "value"], rows), start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def log_step(
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
        """Record a training step; tensors are read, which waits for the device, only every tenth iteration.

        Args:
            iteration: steps done, including this one.
            losses: by name; their sum is the loss.
            learning_rates: by parameter group; the first is the run's.
            images: of this step, over all processes.
            data_seconds: waited for the batch.
            gradient_norm: before clipping.
            ema_distance: returns the distance of the averaged weights; called when a point is recorded.
        """
        if not self.active:
            return
        self.images, self.steps = self.images + images, self.steps + 1
        self.data_seconds += data_seconds
        self.console.advance(iteration)
        is_point = iteration % POINT_EVERY == 0 or iteration == self.total
        if not is_point and iteration != self.start + 1:
            return
        norms = {"norm_gradient": gradient_norm, "norm_ema_distance": ema_distance()}
        norms = {name: norm for name, norm in norms.items() if norm is not None}
        values = _read_numbers({**losses, **norms})
        loss, rate = math.fsum(values[name] for name in losses), next(iter(learning_rates.values()))
        seconds = time.perf_counter() - self.clock
        if is_point:
            curves = {"loss": loss, "lr": rate, "passed_epochs": iteration / self.iterations_per_epoch}
            curves |= {f"loss_{name}": values[name] for name in losses}
            curves |= {name: values[name] for name in norms}
            if len(learning_rates) > 1:
                curves |= {f"lr_{name}": value for name, value in learning_rates.items()}
            speeds = {f"wall/{name}": value for name, value in self._measure_speed(seconds).items()}
            self._add_scalars(iteration, {f"train/{name}": value for name, value in curves.items()} | speeds)
        self.smooth_loss = loss if self.smooth_loss is None else 0.8 * self.smooth_loss + 0.2 * loss
        facts = f"loss {self.smooth_loss:.4f}, lr {rate:.1e}, {self.images / seconds:.1f} images/s"
        if self.last_miou is not None:
            facts += f", mIoU {format_percent(self.last_miou)}"
        self.console.progress(iteration, facts)
        self._restart_clock()

    def log_scores(
        self,
        iteration: int,
        scores: Mapping[str, float],
        classes: Mapping[str, Sequence[float]],
        *,
        losses: Mapping[str, float] | None = None,
        counts: np.ndarray | None = None,
    ) -> None:
        """Record a validation.

        Args:
            iteration: steps done.
            scores: by name.
            classes: columns of K values by name, with ``IoU`` among them; NaN if undefined.
            losses: parts of the loss.
            counts: confusion matrix (K, K).
        """
        if not self.active:
            return
        iou = classes["IoU"]
        shown = [k for k in range(len(iou)) if not math.isnan(iou[k])]
        if len(iou) > MANY_CLASSES:
            shown = worst_and_best_classes(iou, 10)
        curves = {f"val/{name}": float(value) for name, value in scores.items()}
        if losses:
            curves["val/loss"] = math.fsum(losses.values())
            curves |= {f"val/loss_{name}": value for name, value in losses.items()}
        self._add_scalars(iteration, curves | {f"val_iou/{self.names[k]}": iou[k] for k in shown})
        if counts is not None:
            self.log_image("val/confusion", iteration, overlays.draw_confusion_matrix(counts, self.names))
            rows = [
                [self.names[label], self.names[prediction], pixels, format_percent(share)]
                for label, prediction, pixels, share in most_confused_pairs(counts, CONFUSED_PAIRS)
            ]
            table = format_markdown_table(["label", "prediction", "pixels", "% of the label"], rows)
            self.log_text("val/confusions", table, iteration)
        rows = [[self.names[k], *(format_percent(c[k]) for c in classes.values())] for k in range(len(iou))]
        self.log_text("val/classes", format_markdown_table(["class", *classes], rows), iteration)
        self.last_miou = scores.get("mIoU")
        values = "  ".join(f"{name} {format_percent(value)}" for name, value in scores.items())
        epoch = iteration / self.iterations_per_epoch
        self.log_message(f"validation at {iteration} (epoch {epoch:.2f}), in %: {values}")
        shown_columns = {name: [column[k] for k in shown] for name, column in classes.items()}
        self.log_message(format_class_table([self.names[k] for k in shown], shown_columns))
        self.flush()
        self._restart_clock()

    def log_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Record an image (H, W, 3) uint8."""
        for writer in self.writers.values():
            writer.add_image(tag, iteration, image)
        self._restart_clock()

    def log_samples(
        self, iteration: int, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> None:
        """Record validation samples with label, prediction and errors, also as ``samples.png``."""
        if self.active and samples:
            sheet = overlays.draw_sheet(samples, self.names, self.colors, predictions=predictions)
            self.log_image("val/samples", iteration, sheet)
            overlays.save_image(self.folder / "samples.png", sheet)

    def log_batch(self, iteration: int, batch: Batch) -> None:
        """Record the first augmented images and labels of a batch."""
        if self.active:
            images = batch.image[:BATCH_IMAGES].permute(0, 2, 3, 1).cpu().numpy()
            labels = batch.label[:BATCH_IMAGES].cpu().numpy()
            samples = [
                Sample(np.ascontiguousarray(image), label, name, batch.bands)
                for image, label, name in zip(images, labels, batch.names, strict=False)
            ]
            self.log_image("train/samples", iteration, overlays.draw_sheet(samples, self.names, self.colors))

    def log_text(self, tag: str, markdown: str, iteration: int) -> None:
        """Record a text in Markdown."""
        for writer in self.writers.values():
            writer.add_text(tag, iteration, markdown)

    def log_settings(self, settings: Mapping[str, Any], *, network: str) -> None:
        """Record the settings, as text and as hyperparameters, and a description of the network."""
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        self.log_text("settings", format_code_block(text), self.start)
        self.log_text("network", format_code_block(network), self.start)
        for writer in self.writers.values():
            writer.add_hparams(flat(settings) | {"schedule.length": self.total}, ["val/mIoU", "val/pixAcc"])
        self._restart_clock()

    def log_message(self, line: str) -> None:
        """Print a message and append it to the log file."""
        if self.active:
            LOG.info(line)

    def flush(self) -> None:
        """Write all events to disk; called before a checkpoint, so that a resumed run has no gap."""
        for writer in self.writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the writers and the console."""
        if self.active:
            for writer in self.writers.values():
                writer.close()
            self.active, self.writers = False, {}
            self.console.close()

    def _add_scalars(self, iteration: int, curves: Mapping[str, float]) -> None:
        for writer in self.writers.values():
            writer.add_scalars(iteration, curves)

    def _measure_speed(self, seconds: float) -> dict[str, float]:
        """Return speed in the last seconds, and the most memory so far."""
        speeds = {"images_per_second": self.images / seconds, "step_seconds": seconds / self.steps}
        speeds["data_share"] = self.data_seconds / seconds
        if resource is not None:
            unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
            speeds["host_GiB_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        if torch.cuda.is_available():
            speeds["device_GiB_peak"] = torch.cuda.max_memory_allocated() / 2**30
        return speeds

    def _restart_clock(self) -> None:
        """Restart the measurement of speed, so that validating and drawing do not count as training."""
        self.images, self.data_seconds, self.steps, self.clock = 0, 0.0, 0, time.perf_counter()


def _read_numbers(values: Mapping[str, Scalar]) -> dict[str, float]:
    """Return tensors and numbers as floats; all tensors are read from the device at once."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: float(value) for name, value in values.items() if name not in tensors}
    if tensors:
        scalars = torch.stack([tensor.detach().float().flatten()[0] for tensor in tensors.values()])
        numbers |= dict(zip(tensors, scalars.tolist(), strict=True))
    return numbers
