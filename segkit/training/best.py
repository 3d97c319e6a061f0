"""Which weights are the best: by a score, by a class's IoU or by the loss of the validation."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from segkit.evaluation import Evaluation

SCORES = ("mIoU", "pixAcc", "mAcc", "fwIoU", "mDice")  # of ``metrics.scores``
LOSS, IOU = "val/loss", "iou/"


def check_metric(metric: str, names: Sequence[str]) -> None:
    """Make sure that a metric exists.

    Args:
        metric: of the settings.
        names: of the classes.

    Raises:
        ValueError: there is no such score, or no such class.
    """
    known = [*SCORES, LOSS, *(f"{IOU}{name}" for name in names)]
    if metric in known:
        return
    words = {word.lower(): word for word in known}
    close = difflib.get_close_matches(metric.lower(), words, n=1)
    meant = f"did you mean checkpoint.metric={words[close[0]]}? " if close else ""
    raise ValueError(
        f"checkpoint.metric={metric}: there is no such metric; {meant}there are {', '.join(known[:6])}"
        f" and {IOU}CLASS ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
    )


def metric_value(metric: str, result: Evaluation, losses: Mapping[str, float], names: Sequence[str]) -> float:
    """Return a metric of a validation; NaN where a class has neither labels nor predictions.

    Args:
        metric: one that ``check_metric`` accepts.
        result: of the validation.
        losses: its parts by name.
        names: of the classes.
    """
    if metric == LOSS:
        return math.fsum(losses.values())
    if metric.startswith(IOU):
        return result.class_iou[list(names).index(metric.removeprefix(IOU))]
    return result.scores[metric]


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Return whether a value beats the best so far: a lower loss, a higher score; never NaN or infinity."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best if metric == LOSS else value > best


def explain_undefined(metric: str, value: float) -> str:
    """Return why a metric has no finite value, and what to do."""
    advice = "best.pt is not written for it. Choose another checkpoint.metric, such as mIoU"
    if metric.startswith(IOU):
        name = metric.removeprefix(IOU)
        return (
            f"checkpoint.metric={metric} is undefined: no validation image has a pixel of {name!r}, and none"
            f" was predicted. {advice}, or add images of {name!r} to the validation split."
        )
    return f"checkpoint.metric={metric} is {value:g} in this validation. {advice}."


def format_metric(metric: str, value: float | None) -> str:
    """Return a metric with its value, scores in percent."""
    if value is None:
        return f"{metric} unknown"
    return f"{metric} {value:.4f}" if metric == LOSS else f"{metric} {value:.2%}"
