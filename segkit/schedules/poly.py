"""Polynomial decay per iteration (arXiv 1606.00915): (1 - t / T) ** power, after a linear warm-up."""

from __future__ import annotations

from collections.abc import Callable

from segkit.settings import Fraction, NonNegativeInt, PositiveFloat


def build(
    total: int,
    *,
    power: PositiveFloat = 0.9,
    final: Fraction = 0.0,
    warmup_iterations: NonNegativeInt = 0,
) -> Callable[[int], float]:
    """The factor by which an iteration multiplies every group's learning rate.

    Args:
        total: iterations of the whole training.
        power: of the decay; 1 is linear.
        final: the factor never falls below it (mmsegmentation ends at 0.01: 1e-4 of 1e-2).
        warmup_iterations: over these the factor grows linearly to where the decay is by then.

    Raises:
        ValueError: the warm-up is not shorter than the training.
    """
    if warmup_iterations >= total:
        raise ValueError(
            f"schedule.policy.warmup_iterations={warmup_iterations} leaves nothing of {total} iterations"
        )

    def factor(iteration: int) -> float:
        decayed = (1 - final) * (1 - iteration / total) ** power + final
        return decayed * min(1.0, (iteration + 1) / (warmup_iterations + 1))

    return factor
