"""Learning-rate range test (Smith 2015, arXiv 1506.01186): raise the rate until the loss explodes.

The run's own network, data, loss and optimizer take the steps; parameter groups keep their proportions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.runtime import distributed
from segkit.training.nonfinite import NonFiniteGuard
from segkit.training.run import Training
from segkit.training.step import train_step
from segkit.types import Batch
from segkit.visualize import line_charts, overlays

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
EXPLOSION = 4.0  # times the lowest smoothed loss
MOMENTUM = 0.9  # of the smoothed loss


class RangeTestResult(NamedTuple):
    """Smoothed losses by learning rate, and the rate they suggest."""

    rates: list[float]  # of the backbone, as ``schedule.lr``
    losses: list[float]  # at each, smoothed
    suggestion: float | None
    reason: str


def run_range_test(run: Training, steps: Iterable[tuple[Sequence[Batch], float]]) -> RangeTestResult:
    """Train 100 steps (or all of a shorter run) with rates from 1e-6 to 10, or until the loss explodes.

    The weights are not restored.
    """
    first, count = run.iteration, min(STEPS, len(run.remaining_iterations))
    rates = np.geomspace(LOWEST, HIGHEST, count).tolist()
    run.lr_factor = lambda iteration: rates[iteration - first] / run.schedule.lr
    run.guard, run.ema_model = NonFiniteGuard("skip silently", most_in_a_row=count), None
    losses: list[float] = []
    for batches, _ in itertools.islice(steps, count):
        losses.append(math.fsum(float(part) for part in train_step(run, batches).losses.values()))
        smooth = smooth_losses(losses)
        if not math.isfinite(losses[-1]) or smooth[-1] > EXPLOSION * min(smooth):
            break
    return analyze_losses(rates[: len(losses)], losses)


def smooth_losses(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average at each step, without bias towards the start."""
    smooth, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * loss
        smooth.append(mean / (1 - MOMENTUM**count))
    return smooth


def analyze_losses(rates: Sequence[float], losses: Sequence[float]) -> RangeTestResult:
    """Suggest the rate at which the smoothed loss falls fastest over the logarithm of the rate.

    The suggestion is at most a tenth of the rate with the lowest loss, where the loss no longer falls. The
    rates rise; the first loss that is not finite ends the curve.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    smooth = smooth_losses(finite)
    rates = list(rates[: len(smooth)])
    if len(smooth) < 5:
        reason = "the loss was not finite from the start. Check the data and the loss."
        return RangeTestResult(rates, smooth, None, reason)
    lowest = int(np.argmin(smooth))
    if smooth[0] - smooth[lowest] < 0.05 * abs(smooth[0]):
        reason = f"no rate made the loss fall by 5 % (from {smooth[0]:.3g}). Check the labels and the loss."
        return RangeTestResult(rates, smooth, None, reason)
    slopes = np.gradient(smooth[: lowest + 1], np.log10(rates[: lowest + 1]))
    steepest = rates[int(np.argmin(slopes))]
    suggestion = min(steepest, rates[lowest] / 10)
    reason = f"the loss falls fastest at {steepest:.1e}, is lowest at {rates[lowest]:.1e}"
    return RangeTestResult(rates, smooth, suggestion, reason)


def report_range_test(result: RangeTestResult, folder: Path) -> str:
    """Draw the losses over log10 of the rate to ``lr_finder.png`` and return the message to print."""
    message, file = result.reason, folder / "lr_finder.png"
    lowest = min(result.losses, default=0.0)
    highest = 1.5 * max([lowest, *result.losses[:1]])  # the curve is cut off here
    points = zip(np.log10(result.rates), result.losses, strict=True)
    curves = {"loss": [(float(x), min(y, highest)) for x, y in points]}
    if result.suggestion is not None:
        suggestion, x = f"schedule.lr={result.suggestion:.1e}", math.log10(result.suggestion)
        curves[f"suggested {suggestion}"] = [(x, lowest), (x, highest)]
        message = f"try {suggestion}: {message}"
    if distributed.is_main():
        chart = line_charts.draw_line_charts({"smoothed loss, by log10 of schedule.lr": curves})
        overlays.save_image(file, chart)
    return f"{message}\ncurve: {file}"
