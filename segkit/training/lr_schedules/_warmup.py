"""Linear warmup before a decay; toolkits differ in where the decay begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from segkit.runtime.text import format_count

Decay = Callable[[int, int], float]  # (iteration of the decay, its length) -> factor
Kind = Literal["overlap", "encoding", "mmseg"]


def with_warmup(decay: Decay, total: int, *, warmup_iterations: int, warmup: Kind) -> Callable[[int], float]:
    """Return the function from an iteration to its learning-rate factor: a warmup, then a decay.

    Args:
        decay: the factor without warmup.
        total: T, iterations of the training.
        warmup_iterations: W.
        warmup: ``overlap``: the decay starts at iteration 0 and is multiplied by (t + 1) / (W + 1) (mmcv
            before 2). ``encoding``: t / W, then the decay over the other T - W iterations (PyTorch-Encoding).
            ``mmseg``: from 1e-6 to 1 at the last of the W, then the decay over the others (``LinearLR`` and
            ``PolyLR`` of mmsegmentation 1).

    Raises:
        ValueError: the warmup is not shorter than the training.
    """
    if warmup_iterations >= total:
        raise ValueError(
            f"schedule.lr_schedule.warmup_iterations={warmup_iterations}: must be below the"
            f" {format_count(total, 'iteration')} of the training"
        )

    def factor(iteration: int) -> float:
        if warmup == "overlap":
            return decay(iteration, total) * min(1.0, (iteration + 1) / (warmup_iterations + 1))
        if iteration >= warmup_iterations:
            return decay(iteration - warmup_iterations, total - warmup_iterations)
        if warmup == "encoding":
            return iteration / warmup_iterations
        return 1e-6 + (1 - 1e-6) * iteration / max(1, warmup_iterations - 1)

    return factor
