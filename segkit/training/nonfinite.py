"""Losses, gradients and weights that are NaN or infinite.

Each step leaves one number on the device, the first iteration that was not finite. It is read every ten
iterations, before a validation and before a checkpoint, so no step waits for the device. Before a checkpoint
the weights are checked as well: a finite gradient can still move them beyond the largest number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segkit.runtime import distributed

LOG = logging.getLogger("segkit")
LOOK = 10  # iterations between two looks, those between two points of the curves


class StepRecord(NamedTuple):
    """Losses, rates and samples of one step; tensors on the device."""

    iteration: int
    losses: Mapping[str, Tensor]
    norm: Tensor
    rates: Mapping[str, float]
    names: Sequence[str]  # of this process's samples

    def finite(self) -> Tensor:
        """Return whether every number is finite; a scalar on the device, the same on every process."""
        return torch.stack([*self.losses.values(), self.norm]).isfinite().all()

    def __str__(self) -> str:
        return self.describe(self.names)

    def describe(self, names: Sequence[str]) -> str:
        """Return a description of the step with the given names of samples."""
        numbers = {f"loss_{k}": v for k, v in self.losses.items()} | {"norm of the gradient": self.norm}
        words = [f"{name} {float(value):g}" for name, value in numbers.items()]
        rates = [f"{name} {rate:g}" for name, rate in self.rates.items()]
        return f"{', '.join(words)}; learning rate {', '.join(rates)}; samples {', '.join(names)}"


class NonFiniteGuard:
    """Detects steps of a run that are not finite.

    Args:
        device: of the run.
        policy: "stop" raises; "skip" leaves such steps out, which waits for the device at every step.
        most_in_a_row: skipped steps in a row before it is an error all the same.
    """

    def __init__(self, device: torch.device, policy: str, most_in_a_row: int) -> None:
        self.skips, self.most_in_a_row = policy == "skip", most_in_a_row
        self.skipped = self.in_a_row = 0
        self.first = torch.zeros((), dtype=torch.int64, device=device)
        self.recent: list[StepRecord] = []

    def must_skip(self, record: StepRecord, *, scaled: bool) -> bool:
        """Return whether a step is to be left out; called before it is taken.

        Args:
            record: of the step.
            scaled: its gradient was scaled (fp16), where an overflow is ordinary and never taken.

        Raises:
            ValueError: the step is not finite, or one of those before it, and that is not to be skipped.
        """
        if self.skips or scaled:
            if record.finite():
                self.in_a_row = 0
            elif self.skips or torch.stack(list(record.losses.values())).isfinite().all():
                self._count(record)
                return True
        self._note(record)
        return False

    def _note(self, record: StepRecord) -> None:
        unset = (self.first == 0) & ~record.finite()
        self.first = torch.where(unset, record.iteration, self.first)
        self.recent.append(record)
        if record.iteration % LOOK == 0:
            self.check()

    def check(self) -> None:
        """Make sure that every step so far was finite; waits for the device.

        Raises:
            ValueError: one was not; the message has its iteration, losses, rates and samples.
        """
        first = int(self.first)
        if first:
            record = next(record for record in self.recent if record.iteration == first)
            raise ValueError(f"{_described_by_all(record)}. {REMEDY}")
        self.recent.clear()

    def _count(self, record: StepRecord) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        words = _described_by_all(record)
        if self.in_a_row > self.most_in_a_row:
            raise ValueError(
                f"{words}; it is number {self.in_a_row} in a row (schedule.nonfinite_in_a_row). {REMEDY}"
            )
        if self.skips:
            LOG.warning("%s; skipped, %d in all", words, self.skipped)

    def state(self) -> dict[str, Any]:
        """Return the counts that a checkpoint stores."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, int]) -> None:
        """Restore the counts of a checkpoint."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def check_state(state: Mapping[str, Any]) -> None:
    """Make sure that every number of a checkpoint is finite; every process must call it.

    Raises:
        ValueError: one is not; the tensors are named.
    """
    tensors = {name: tensor for name, tensor in _tensors_in(state) if tensor.is_floating_point()}
    sums = {name: tensor.sum() for name, tensor in tensors.items()}  # on two devices; one pass over memory
    doubtful = [name for name, total in sums.items() if not total.isfinite()]  # or a sum that overflowed
    names = [name for name in doubtful if not tensors[name].isfinite().all()]
    if not distributed.all_reduce_max(len(names)):
        return
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise ValueError(
        f"iteration {state['iteration']}: {', '.join(names[:3])}{more} are infinite or NaN although the"
        f" gradients were finite. {REMEDY}"
    )


def _tensors_in(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors_in(value, f"{path}.{key}" if path else str(key))


def _described_by_all(record: StepRecord) -> str:
    """Return a description with the samples of all processes; every process must call it."""
    names = [name for names in distributed.gather(list(record.names)) for name in names]
    return f"iteration {record.iteration} is not finite: {record.describe(names)}"


REMEDY = (
    "This state is not saved; resume=true starts from the last checkpoint, which is finite, and repeats the"
    " way here unless a setting changes: a lower schedule.lr, schedule.clip_gradient=1 or"
    " runtime.precision=float32 may avoid it, and schedule.nonfinite=skip leaves out steps whose loss or"
    " gradient is not finite."
)
