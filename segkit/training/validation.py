"""Validation within training: the scores of ``test_seg.py``, the loss, a few images, the best weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit import evaluation, inference
from segkit.checkpoint import Checkpoints
from segkit.cpu import release_memory
from segkit.evaluation import Evaluation, StopEvaluation
from segkit.inference import Protocol, Strip
from segkit.monitor.monitor import Monitor
from segkit.runtime import distributed, files, signals
from segkit.runtime.wording import write_count
from segkit.training import best
from segkit.training.run import Training
from segkit.types import Dataset, Logits, Sample

SHOWN = 6  # validation images, spread over the split, that are drawn
DRAWN_SIDE = 480  # pixels: a larger image is thinned out before it is kept for drawing
PIECE_BYTES = 256 * 2**20  # of the logits whose loss is computed at once


def validate(
    run: Training,
    dataset: Dataset,
    protocol: Protocol,
    *,
    workers: int = 0,
    monitor: Monitor,
    checkpoints: Checkpoints,
) -> Evaluation | None:
    """Score the run's weights, show and store the result, and keep the weights if none were better.

    Returns None if a signal asked this run to leave; ``run.validation_pending`` then stays True, and the
    resumed run validates first.

    Args:
        run: its ``scored`` model is evaluated.
        dataset: the validation split.
        protocol: of the settings.
        workers: processes that read the images; they end with the validation.
        monitor: of the run.
        checkpoints: receives ``best.pt``; its folder gets ``result.json`` and ``samples.png``.
    """
    run.guard.check()
    run.validation_pending = True
    loss = ValidationLoss(run.loss, protocol)
    shown = ShownSamples(dataset.names)

    def leave_if_asked(sample: Sample, strip: Strip) -> None:
        if run.request.signal:
            raise StopEvaluation
        loss.add(sample, strip)

    monitor.log_message(f"validating on {write_count(len(dataset), 'image')}")
    result = evaluation.evaluate(
        run.eval_model,
        dataset,
        protocol,
        workers=workers,
        on_image=shown.add,
        on_strip=leave_if_asked,
        with_intervals=False,
    )
    if run.stop_signal():
        return None
    run.validation_pending, run.validated = False, run.iteration
    losses = loss.mean()
    monitor.scores(
        run.iteration, result.scores, result.class_iou, losses=losses, counts=result.counts.numpy()
    )
    monitor.samples(run.iteration, *shown.gather())
    if distributed.is_main():
        record = {"iteration": run.iteration, "protocol": protocol.as_dict(), "scores": result.scores}
        with files.atomic_write(checkpoints.folder / "result.json") as file:
            file.write(json.dumps(record, indent=2).encode())
    value = best.metric_value(run.metric, result, losses, monitor.names)
    if not math.isfinite(value) and run.best is None:
        monitor.log_message(f"careful: {best.explain_undefined(run.metric, value)}")
    if run.update_best(value):
        checkpoints.save_best(run.iteration, run.eval_model.state_dict(), result.scores)
    if run.out_of_patience:
        monitor.log_message(
            f"stopping at {run.iteration:,} of {run.length:,} iterations: the last {run.stale} validations"
            f" found no better {run.best_text} (schedule.patience={run.stale})"
        )
    release_memory()
    return result


def checkpoint_and_validate(
    run: Training,
    dataset: Dataset,
    protocol: Protocol,
    *,
    workers: int = 0,
    monitor: Monitor,
    checkpoints: Checkpoints,
) -> None:
    """Save if it is time, validate if that is pending, leave if asked.

    A checkpoint comes before a validation, which is then still to do, and one after it: whatever ends the
    validation, a broken image or a signal, no iteration is lost. While steps are being skipped nothing is
    saved before the end: the run may never recover, and each checkpoint removes an older one. Arguments are
    those of ``validate``.

    Raises:
        SystemExit: a signal asked this run to leave.
    """

    def save() -> None:
        if run.guard.in_a_row and run.iteration < run.length:
            if leaving:
                monitor.log_message(
                    f"not saved, because the last {run.guard.in_a_row} steps were skipped: the run resumes"
                    " from its last checkpoint"
                )
            return
        monitor.flush()  # so that a run resumed from here has no gap in its curves
        checkpoints.save(run.state())

    leaving = run.stop_signal()
    if leaving or run.validation_pending or checkpoints.due(run.iteration) or run.iteration == run.length:
        save()
    if run.validation_pending and not leaving:
        kept = {"monitor": monitor, "checkpoints": checkpoints}
        if validate(run, dataset, protocol, workers=workers, **kept) is not None:
            save()
        leaving = run.stop_signal()
    if leaving:
        distributed.barrier()
        signals.exit_after_signal(leaving)


class ValidationLoss:
    """The training's loss of the predictions that are scored, without the auxiliary head's part.

    Its logits are the merged ones of the protocol: with one view the network's own, else the logarithm of
    the merged probabilities. Images are weighted as in training, by the loss's ``weight`` of their labels. An
    image whose logits exceed ``PIECE_BYTES`` enters in several pieces of whole rows.

    Args:
        loss: of ``segkit.losses``.
        protocol: of the evaluation.
    """

    def __init__(self, loss: Any, protocol: Protocol) -> None:
        self.loss, self.protocol = loss, protocol
        self.rows: list[Tensor] = []  # (rows, W, K) of the piece that is being gathered
        self.sums: dict[str, Tensor] = {}  # of each part: one number, or one for each loss of a sum
        self.weight = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def add(self, sample: Sample, strip: Strip) -> None:
        """Take the merged scores of some rows; called from top to bottom of each image."""
        height, width, num_classes = *sample.label.shape, strip.scores.shape[2]
        self.rows.append(inference.scores_to_logits(strip.scores, self.protocol))
        rows = sum(len(part) for part in self.rows)
        full = max(1, PIECE_BYTES // (4 * width * num_classes))
        if strip.bottom < height and rows < full:
            return
        logits = torch.cat(self.rows).permute(2, 0, 1)[None]
        self.rows.clear()
        label = torch.from_numpy(sample.label[strip.bottom - rows : strip.bottom])[None].to(logits.device)
        weight = self.loss.weight(label).cpu().double()
        for name, part in self.loss(Logits(logits), label).items():
            self.sums[name] = self.sums.get(name, 0) + part.cpu().double() * weight
        self.weight = self.weight + weight

    def mean(self) -> dict[str, float]:
        """The loss's parts by name, over the images of all processes; every process must call it."""
        everyone: list[tuple[dict[str, Tensor], Tensor]] = distributed.gather((self.sums, self.weight))
        weight = (
            torch.stack(torch.broadcast_tensors(*(weight for _, weight in everyone))).sum(0).clamp(min=1e-9)
        )
        names = dict.fromkeys(name for sums, _ in everyone for name in sums)
        zero = torch.zeros_like(weight)
        totals = {name: torch.stack([sums.get(name, zero) for sums, _ in everyone]).sum(0) for name in names}
        return {name: float((total / weight).sum()) for name, total in totals.items()}


class ShownSamples:
    """Keeps a few samples of a validation with what was predicted for them, to be drawn.

    Args:
        names: of the split's images; those kept are spread evenly over them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        chosen = np.linspace(0, len(names) - 1, min(SHOWN, len(names))).astype(int)
        self.names = [names[int(index)] for index in chosen]
        self.kept: dict[str, tuple[Sample, np.ndarray]] = {}

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep a sample, thinned out to about ``DRAWN_SIDE`` pixels, if it is one of those shown."""
        if sample.name not in self.names:
            return
        step = max(1, min(sample.label.shape) // DRAWN_SIDE)
        image, label, thin = (
            np.ascontiguousarray(a[::step, ::step]) for a in (sample.image, sample.label, prediction)
        )
        self.kept[sample.name] = sample._replace(image=image, label=label), thin

    def gather(self) -> tuple[list[Sample], list[np.ndarray]]:
        """Samples and predictions of all processes in the split's order; every process must call it."""
        kept: Mapping[str, tuple[Sample, np.ndarray]] = {
            name: pair for part in distributed.gather(self.kept) for name, pair in part.items()
        }
        pairs = [kept[name] for name in self.names if name in kept]
        return [sample for sample, _ in pairs], [prediction for _, prediction in pairs]
