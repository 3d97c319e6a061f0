"""The linear warm-up that stands before every decay; toolkits differ in where the decay begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from segkit.runtime.text import format_count

Decay = Callable[[int, int], float]  # (iterations decayed, of how many) -> factor
Kind = Literal["overlap", "encoding", "mmseg"]


def with_warmup(decay: Decay, total: int, *, warmup_iterations: int, warmup: Kind) -> Callable[[int], float]:
    """The factor of an iteration: a rise over W of the T iterations, and a decay.

    Args:
        decay: the factor after so many of so many iterations.
        total: T, iterations of the whole training.
        warmup_iterations: W.
        warmup: ``overlap``: the decay counts from iteration 0 and the rise, (t + 1) / (W + 1), is multiplied
            into it (mmcv before 2). ``encoding``: t / W, from 0, then the decay over the other T - W
            iterations (PyTorch-Encoding). ``mmseg``: from 1e-6 to 1 at the last of the W, then the decay over
            the others (``LinearLR`` and ``PolyLR`` of mmsegmentation 1).

    Raises:
        ValueError: the warm-up is not shorter than the training.
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
