"""Validation within training: the scores of ``test_seg.py``, the same few pictures, the best weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from segkit import distributed, files, inference, pictures
from segkit.checkpoint import Checkpoints
from segkit.inference import Evaluation, Protocol
from segkit.monitor import Monitor
from segkit.training import Training
from segkit.types import Sample

SHOWN = 6  # validation pictures, spread over the split, that are drawn and whose loss is shown


def validate(
    run: Training, dataset: Any, protocol: Protocol, *, monitor: Monitor, checkpoints: Checkpoints
) -> Evaluation | None:
    """Score the run's weights, show and store the result, and keep the weights if none were better.

    When this process is asked to leave, there is no result; the run remembers to begin with it.

    Args:
        run: its ``scored`` model is looked at.
        dataset: the validation split.
        protocol: of the settings.
        monitor: of the run.
        checkpoints: receives ``best.pt``; its folder gets ``result.json`` and ``samples.png``.
    """

    def give_way(*_: Any) -> None:
        if run.request.signal:
            raise inference.EnoughError

    run.watch.look()
    run.owes_scores = True
    result = inference.evaluate(run.scored, dataset, protocol, on_image=give_way)
    if run.asked_to_leave():
        return None
    run.owes_scores = False
    chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).astype(int)
    samples = [dataset.read(int(index)) for index in chosen] if distributed.is_main() else []
    loss = _loss(run, samples) if samples else None
    monitor.scores(run.iteration, result.scores, result.class_iou, loss=loss, counts=result.counts.numpy())
    if distributed.is_main():
        fast = inference.prepare(run.scored, precision=protocol.precision)
        predictions = [inference.predict(fast, sample.image, protocol).cpu().numpy() for sample in samples]
        monitor.samples(run.iteration, samples, predictions)
        table = dataset.table
        sheet = pictures.sheet(samples, table.names, table.colours, predictions=predictions)
        pictures.save(checkpoints.folder / "samples.png", sheet)
        found = {"iteration": run.iteration, "protocol": protocol.stated(), "scores": result.scores}
        with files.whole(checkpoints.folder / "result.json") as file:
            file.write(json.dumps(found, indent=2).encode())
    if result.scores["mIoU"] > run.best:
        run.best = result.scores["mIoU"]
        checkpoints.save_best(run.iteration, run.scored.state_dict(), result.scores)
    return result


@torch.no_grad()
def _loss(run: Training, samples: Sequence[Sample]) -> float:
    """The training's loss on whole pictures: without the auxiliary head, each picture counting alike."""
    losses = []
    for sample in samples:
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(run.device)
        label = torch.from_numpy(sample.label)[None].to(run.device)
        with run.runtime.autocast(run.device):
            logits = run.scored.eval()(image)
        losses.append(float(run.loss(logits, label)["main"].sum()))
    return sum(losses) / len(losses)
