"""``checkpoint.metric``, which selects the best weights: a score, a class's IoU or the validation loss."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from segkit.evaluation import Evaluation

SCORES = ("mIoU", "pixAcc", "mAcc", "fwIoU", "mDice")  # of ``metrics.score_pixels``
LOSS, IOU = "val/loss", "iou/"


def check_metric(metric: str, class_names: Sequence[str]) -> None:
    """Check that a metric exists.

    Raises:
        ValueError: there is no such score, or no such class.
    """
    general = (*SCORES, LOSS)
    known = (*general, *(f"{IOU}{name}" for name in class_names))
    if metric not in known:
        close = difflib.get_close_matches(metric, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"checkpoint.metric={metric}: must be one of {', '.join(general)}, or {IOU}CLASS with a class"
            f" of the data, such as {', '.join(class_names[:3])}.{hint}"
        )


def metric_value(
    metric: str, result: Evaluation, losses: Mapping[str, float], class_names: Sequence[str]
) -> float:
    """Return a metric of a validation; NaN for a class with neither labels nor predictions."""
    if metric == LOSS:
        return math.fsum(losses.values())
    if metric.startswith(IOU):
        return result.class_iou[list(class_names).index(metric.removeprefix(IOU))]
    return result.scores[metric]


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Return whether a value beats the best so far: a lower loss, a higher score; never NaN or infinity."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    if metric == LOSS:
        return value < best
    return value > best


def format_metric(metric: str, value: float | None) -> str:
    """Return a metric with its value, scores in percent."""
    if value is None:
        return f"{metric} unknown"
    if metric == LOSS:
        return f"{metric} {value:.4f}"
    return f"{metric} {value:.2%}"
