"""Validation during training: the scores of ``test_seg.py``, the loss, sample images, the best weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit import evaluation, inference
from segkit.checkpoint import Checkpoints
from segkit.cpu import release_memory
from segkit.evaluation import StopEvaluation
from segkit.inference import Protocol, Strip
from segkit.monitor.monitor import Monitor
from segkit.runtime import distributed, files, signals
from segkit.runtime.text import format_count
from segkit.training import best_metric
from segkit.training.run import Training
from segkit.types import Dataset, Logits, Sample

DRAWN_SAMPLES = 6  # validation images, spread over the split
DRAWN_SIDE = 480  # pixels of a drawn image's shorter side; larger ones are subsampled
PIECE_BYTES = 256 * 2**20  # of the logits whose loss is computed at once


def validate(
    run: Training,
    dataset: Dataset,
    protocol: Protocol,
    *,
    workers: int = 0,
    monitor: Monitor,
    checkpoints: Checkpoints,
) -> None:
    """Score the weights, record the result, and save the weights as ``best.pt`` if they are the best so far.

    If a signal asks the run to stop, ``run.validation_pending`` stays True, and the resumed run validates
    first. ``result.json`` and ``samples.png`` are written to the run folder.
    """
    run.guard.check()
    run.validation_pending = True
    model = run.ema_model or run.model
    loss = ValidationLoss(run.loss, protocol)
    drawn = DrawnSamples(dataset.names)

    def add_loss_unless_stopped(sample: Sample, strip: Strip) -> None:
        if run.stop_request.signal:
            raise StopEvaluation
        loss.add(sample, strip)

    monitor.log_message(f"validating on {format_count(len(dataset), 'image')}")
    result = evaluation.evaluate(
        model,
        dataset,
        protocol,
        workers=workers,
        on_image=drawn.add,
        on_strip=add_loss_unless_stopped,
        with_intervals=False,
    )
    if run.find_stop_signal():
        return
    run.validation_pending, run.last_validation = False, run.iteration
    losses = loss.mean()
    monitor.log_scores(
        run.iteration, result.scores, result.class_table(), losses=losses, counts=result.counts.numpy()
    )
    monitor.log_samples(run.iteration, *drawn.gather())
    if distributed.is_main():
        record = {"iteration": run.iteration, "protocol": protocol.as_dict(), "scores": result.scores}
        files.write_json(checkpoints.folder / "result.json", record)
    value = best_metric.metric_value(run.metric, result, losses, monitor.names)
    if not math.isfinite(value) and run.best is None:
        monitor.log_message(
            f"careful: checkpoint.metric={run.metric} is {value:g} (a class without labels and predictions"
            " has no IoU), so best.pt is not written. Choose another one, such as mIoU."
        )
    if run.update_best(value):
        checkpoints.save_best(run.iteration, model.state_dict(), result.scores)
    if run.is_out_of_patience and run.iteration < run.length:
        monitor.log_message(
            f"stopping early at {run.iteration:,} of {run.length:,} iterations: the last"
            f" {run.validations_since_best} validations found no better {run.best_text}"
            f" (schedule.patience={run.schedule.patience})"
        )
    release_memory()


def checkpoint_and_validate(
    run: Training,
    dataset: Dataset,
    protocol: Protocol,
    *,
    workers: int = 0,
    monitor: Monitor,
    checkpoints: Checkpoints,
) -> None:
    """Save a checkpoint if one is due, validate if that is pending, and exit if a signal asked for it.

    One checkpoint precedes a validation, as pending, and one follows it, so no iteration is lost if the
    validation ends by a broken image or a signal. Nothing is saved while steps are being skipped, except at
    the end: the run may never recover, and each checkpoint removes an older one. Arguments are those of
    ``validate``.

    Raises:
        SystemExit: a signal asked the run to stop.
    """
    is_done = run.iteration == run.length
    stop_signal = run.find_stop_signal()

    def save() -> None:
        if not run.guard.in_a_row or is_done:
            monitor.flush()  # so that a run resumed from here has no gap in its curves
            checkpoints.save(run.state())

    if stop_signal or run.validation_pending or checkpoints.is_due(run.iteration) or is_done:
        save()
    if run.validation_pending and not stop_signal:
        validate(run, dataset, protocol, workers=workers, monitor=monitor, checkpoints=checkpoints)
        if not run.validation_pending:
            save()
        stop_signal = run.find_stop_signal()
    if stop_signal:
        distributed.barrier()
        signals.exit_after_signal(stop_signal)


class ValidationLoss:
    """Training loss of the scored predictions, without the auxiliary head's part.

    The logits are those that the protocol merges from its views: with one view the network's own, else the
    logarithm of the merged probabilities. Images are weighted as in training, by the loss's ``weight`` of
    their labels. An image whose logits exceed ``PIECE_BYTES`` is computed in pieces of full rows.
    """

    def __init__(self, loss: Any, protocol: Protocol) -> None:
        self.loss, self.protocol = loss, protocol
        self.rows: list[Tensor] = []  # (rows, W, K) of the current piece
        self.sums: dict[str, Tensor] = {}  # by part: one number, or one for each loss of a sum
        self.weight = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def add(self, sample: Sample, strip: Strip) -> None:
        """Add the merged scores of a strip; strips come from top to bottom of each image."""
        height, width, num_classes = *sample.label.shape, strip.scores.shape[2]
        self.rows.append(inference.scores_to_logits(strip.scores, self.protocol))
        rows = sum(len(part) for part in self.rows)
        most_rows = max(1, PIECE_BYTES // (4 * width * num_classes))
        if strip.bottom < height and rows < most_rows:
            return
        logits = torch.cat(self.rows).permute(2, 0, 1)[None]  # (1, K, rows, W)
        self.rows.clear()
        label = torch.from_numpy(sample.label[strip.bottom - rows : strip.bottom])[None].to(logits.device)
        weight = self.loss.compute_weight(label).cpu().double()
        for name, part in self.loss(Logits(logits), label).items():
            self.sums[name] = self.sums.get(name, 0) + part.cpu().double() * weight
        self.weight = self.weight + weight

    def mean(self) -> dict[str, float]:
        """Return the parts of the loss over the images of all processes; every process must call it."""
        results: list[tuple[dict[str, Tensor], Tensor]] = distributed.gather((self.sums, self.weight))
        # a process without images has a scalar weight and no parts
        weight = sum((weight for _, weight in results), start=torch.zeros(())).clamp(min=1e-9)
        totals: dict[str, Tensor] = {}
        for sums, _ in results:
            for name, part in sums.items():
                totals[name] = totals.get(name, 0) + part
        return {name: float((total / weight).sum()) for name, total in totals.items()}


class DrawnSamples:
    """A few samples of a validation, spread evenly over its images, with their predictions."""

    def __init__(self, names: Sequence[str]) -> None:
        chosen = np.linspace(0, len(names) - 1, min(DRAWN_SAMPLES, len(names))).astype(int)
        self.names = [names[int(index)] for index in chosen]
        self.pairs: dict[str, tuple[Sample, np.ndarray]] = {}

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Store a sample and its prediction, subsampled to ``DRAWN_SIDE``, if it is one of the drawn ones."""
        if sample.name in self.names:
            step = max(1, min(sample.label.shape) // DRAWN_SIDE)
            image, label, prediction = (
                a[::step, ::step].copy() for a in (sample.image, sample.label, prediction)
            )
            self.pairs[sample.name] = sample._replace(image=image, label=label), prediction

    def gather(self) -> tuple[list[Sample], list[np.ndarray]]:
        """Return the samples and predictions of all processes in order; every process must call it."""
        pairs = {name: pair for part in distributed.gather(self.pairs) for name, pair in part.items()}
        ordered = [pairs[name] for name in self.names if name in pairs]
        return [sample for sample, _ in ordered], [prediction for _, prediction in ordered]
