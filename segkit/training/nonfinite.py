"""Losses, gradients and weights that are NaN or infinite.

Steps are checked together every ten iterations, before a validation and before a checkpoint, so no step waits
for the device. Before a checkpoint the weights are checked as well: a finite gradient can still move them
beyond the largest number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segkit.runtime import distributed

LOG = logging.getLogger("segkit")
CHECK_EVERY = 10  # iterations, as the points of the training curves
ADVICE = (
    "This state is not saved; resume=true starts from the last checkpoint and repeats the same steps unless a"
    " setting changes. A lower schedule.lr, schedule.clip_gradient=1 or runtime.precision=float32 may avoid"
    " it; schedule.nonfinite=skip skips steps whose loss or gradient is not finite."
)


class Step(NamedTuple):
    """Results of one optimizer step; tensors stay on the device, so that nothing waits for it."""

    iteration: int  # from 1
    losses: Mapping[str, Tensor]  # by name, over all processes; their sum is the loss
    gradient_norm: Tensor  # before clipping
    rates: Mapping[str, float]  # learning rate by parameter group
    names: Sequence[str]  # of this process's samples

    def is_finite(self) -> Tensor:
        """Return whether every number is finite; a scalar on the device, the same on every process."""
        return torch.stack([*self.losses.values(), self.gradient_norm]).isfinite().all()

    def describe(self) -> str:
        """Return a description with the samples of all processes; every process must call it."""
        names = [name for names in distributed.gather(list(self.names)) for name in names]
        numbers = {f"loss_{name}": part for name, part in self.losses.items()}
        numbers["norm of the gradient"] = self.gradient_norm
        values = ", ".join(f"{name} {float(value):g}" for name, value in numbers.items())
        rates = ", ".join(f"{name} {rate:g}" for name, rate in self.rates.items())
        return (
            f"iteration {self.iteration} is not finite: {values}; learning rate {rates}; samples"
            f" {', '.join(names)}"
        )


class NonFiniteGuard:
    """Detects steps that are not finite.

    Args:
        policy: "stop" raises an error; "skip" skips such steps with a warning, "skip silently" without one,
            which waits for the device at every step.
        most_in_a_row: more skipped steps in a row than this are an error.
    """

    def __init__(self, policy: str, most_in_a_row: int) -> None:
        self.skips, self.warns, self.most_in_a_row = policy != "stop", policy == "skip", most_in_a_row
        self.skipped, self.in_a_row = 0, 0
        self.unchecked: list[Step] = []

    def must_skip(self, step: Step, *, scaled: bool) -> bool:
        """Return whether to skip a step; called before the weights are changed.

        Overflows of scaled gradients (fp16) are normal, and always skipped.

        Raises:
            ValueError: this step, or one before it, is not finite and must not be skipped.
        """
        if self.skips or scaled:
            if step.is_finite():
                self.in_a_row = 0
            elif self.skips or torch.stack(list(step.losses.values())).isfinite().all():
                self._count_skipped(step)
                return True
        self.unchecked.append(step)
        if step.iteration % CHECK_EVERY == 0:
            self.check()
        return False

    def check(self) -> None:
        """Check that every step so far was finite; waits for the device.

        Raises:
            ValueError: one was not; the message has its iteration, losses, rates and samples.
        """
        for step in self.unchecked:
            if not step.is_finite():
                raise ValueError(f"{step.describe()}. {ADVICE}")
        self.unchecked.clear()

    def _count_skipped(self, step: Step) -> None:
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self.most_in_a_row:
            raise ValueError(
                f"{step.describe()}; it is number {self.in_a_row} in a row (schedule.nonfinite_in_a_row)."
                f" {ADVICE}"
            )
        if self.warns:
            LOG.warning("%s; skipped, %d in all", step.describe(), self.skipped)

    def state(self) -> dict[str, Any]:
        """Return the counts that a checkpoint stores."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, int]) -> None:
        """Restore the counts of a checkpoint."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def check_state(state: Mapping[str, Any]) -> None:
    """Check that every number of a checkpoint is finite; every process must call it.

    Raises:
        ValueError: some are not; the first three tensors are named.
    """
    names = [name for name, tensor in _iter_tensors(state) if not _is_finite(tensor)]
    if not distributed.all_reduce_max(len(names)):
        return
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise ValueError(
        f"iteration {state['iteration']}: {', '.join(names[:3])}{more} are infinite or NaN although the"
        f" gradients were finite. {ADVICE}"
    )


def _iter_tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _iter_tensors(value, f"{path}.{key}" if path else str(key))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())  # a sum is fast, and may overflow
