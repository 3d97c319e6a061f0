"""A range test of the learning rate: it rises step by step until the loss explodes (Smith 2015, 1506.01186).

The run's own network, data, loss and optimizer take the steps, all groups in their proportions; afterwards
network and optimizer are as they were.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from segkit.monitor.writers.tensorboard import Events
from segkit.runtime import distributed
from segkit.training.nonfinite import NonFiniteGuard, StepRecord
from segkit.training.run import Training, train_step
from segkit.types import Batch
from segkit.visualize import line_charts, overlays

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
EXPLODED = 4.0  # times the lowest smoothed loss
MEMORY = 0.9  # of the smoothed loss
Steps = Iterable[tuple[Sequence[Batch], float]]


class Curve(NamedTuple):
    """What a range test found."""

    rates: list[float]  # of the backbone, as ``schedule.lr``
    losses: list[float]  # at each, smoothed
    suggestion: float | None
    reason: str


class _Lenient(NonFiniteGuard):
    """Leaves out what is not finite and says nothing: here it is looked for."""

    def must_skip(self, record: StepRecord, *, scaled: bool) -> bool:
        del scaled
        return not record.finite()


def range_test(run: Training, steps: Steps, folder: Path) -> str:
    """Test rates on a run, which stays as it was; draw the curve into the folder, say what it suggests."""
    return report_range_test(run_range_test(run, steps), folder)


def run_range_test(run: Training, steps: Steps) -> Curve:
    """Raise the rate from 1e-6 to 10 over 100 steps (or all of a shorter run), or until the loss explodes.

    Args:
        run: at its beginning; left as it was.
        steps: of ``training.steps``.
    """
    rates = np.geomspace(LOWEST, HIGHEST, min(STEPS, len(run.remaining_iterations)))
    before = copy.deepcopy({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()})
    trial = dataclasses.replace(
        run,
        policy=lambda step: float(rates[step]) / run.schedule.lr,
        guard=_Lenient(run.device, "stop", 1),
        average=None,
        iteration=0,
    )
    seen: list[float] = []
    for (parts, _), _rate in zip(steps, rates, strict=False):
        seen.append(_loss(train_step(trial, parts).losses))
        if _exploded(seen):
            break
    run.model.load_state_dict(before["model"])
    run.optimizer.load_state_dict(before["optimizer"])
    run.optimizer.zero_grad(set_to_none=True)
    return curve(rates[: len(seen)].tolist(), seen)


def _loss(parts: dict[str, Tensor]) -> float:
    return math.fsum(float(part) for part in parts.values())


def _exploded(losses: Sequence[float]) -> bool:
    smooth = smoothed(losses)
    return not math.isfinite(losses[-1]) or smooth[-1] > EXPLODED * min(smooth)


def smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean that forgets, without a bias towards its start."""
    found, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(mean / (1 - MEMORY**count))
    return found


def curve(rates: Sequence[float], losses: Sequence[float]) -> Curve:
    """The smoothed curve and the rate it suggests: where the loss falls fastest over the rate's logarithm.

    Never above a tenth of the rate where the loss is lowest: there it has already ceased to fall.

    Args:
        rates: rising.
        losses: at each, as measured; those that are not finite end the curve.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    smooth = smoothed(finite)
    rates = list(rates)[: len(smooth)]
    if len(smooth) < 5:
        return Curve(
            rates, smooth, None, "the loss was not finite from the start: look at the data and the loss"
        )
    lowest = int(np.argmin(smooth))
    fall = smooth[0] - smooth[lowest]
    if fall < 0.05 * abs(smooth[0]):
        words = f"no rate made the loss fall by a twentieth (from {smooth[0]:.3g}): look at labels and loss"
        return Curve(rates, smooth, None, words)
    slopes = np.gradient(smooth[: lowest + 1], np.log10(rates[: lowest + 1]))
    steepest = rates[int(np.argmin(slopes))]
    suggestion = min(steepest, rates[lowest] / 10)
    explodes = len(losses) > len(finite) or smooth[-1] > 2 * smooth[lowest]
    ended = f", explodes at {rates[-1]:.1e}" if explodes else ""
    reason = f"the loss falls fastest at {steepest:.1e}, is lowest at {rates[lowest]:.1e}{ended}"
    if suggestion < steepest:
        reason += "; a tenth of where it is lowest is the safer of the two"
    return Curve(rates, smooth, suggestion, reason)


def report_range_test(found: Curve, folder: Path) -> str:
    """Draw the curve, put it into TensorBoard and say what it suggests.

    Args:
        found: by ``run_range_test``.
        folder: of the run; receives ``lr_finder/`` with the image and the events.
    """
    place = folder / "lr_finder"
    words = found.reason
    if found.suggestion is not None:
        words = f"try schedule.lr={found.suggestion:.1e}: {words}"
    if distributed.is_main():
        drawn = chart(found)
        place.mkdir(parents=True, exist_ok=True)
        overlays.save_image(place / "lr_finder.png", drawn)
        events = Events(place, start=0, validation_pending=False)
        for step, (rate, loss) in enumerate(zip(found.rates, found.losses, strict=True), start=1):
            events.scalars(step, {"lr_finder/lr": rate, "lr_finder/loss": loss})
        events.image("lr_finder/curve", len(found.rates), drawn)
        events.text("lr_finder/suggestion", 0, words)
        events.close()
    return f"{words}\nthe curve is in {place}/lr_finder.png and in TensorBoard"


def chart(found: Curve) -> np.ndarray:
    """The curve over log10 of the rate, (H, W, 3) uint8, cut off where it has exploded."""
    most = max(found.losses[0], min(found.losses)) * 1.5 if found.losses else 0.0
    logs = np.log10(found.rates) if found.rates else []
    curves = {"loss": [(float(x), min(y, most)) for x, y in zip(logs, found.losses, strict=True)]}
    if found.suggestion is not None:
        x = math.log10(found.suggestion)
        curves[f"suggested schedule.lr={found.suggestion:.1e}"] = [(x, min(found.losses)), (x, most)]
    return line_charts.charts({"smoothed loss, by log10 of schedule.lr": curves})
