"""Settings ``schedule``: length of a training, batch size, optimizer, and what is frozen or averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from segkit.config import FractionBelowOne, Interval, PositiveFloat, PositiveInt
from segkit.data.loaders import SampleOrder
from segkit.runtime import distributed


@dataclass(frozen=True)
class Schedule:
    """Length of a training, batch size and update rule."""

    batch_size: Annotated[int, Interval(ge=1, le=65536)]  # images of an optimizer step, over all processes
    lr: Annotated[float, Interval(gt=0, le=1000)]  # of the backbone
    optimizer: dict
    lr_schedule: dict
    epochs: Annotated[float, Interval(gt=0, le=100000)] | None = None  # length: either this ...
    iterations: Annotated[int, Interval(ge=1, le=100000000)] | None = None  # ... or this, optimizer steps
    drop_last: bool = False  # an epoch leaves out the images that fill no batch, as the original recipe does
    accumulate: Literal["auto"] | Annotated[int, Interval(ge=1, le=65536)] = "auto"
    head_lr_multiplier: Annotated[float, Interval(gt=0, le=10000)] = 1.0
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0  # of the rate, from a stage to the one before
    decay_norm_and_bias: bool = True
    freeze: Literal[0, 1, 2, 3, 4] = 0  # stages of the backbone that are frozen, the stem with the first
    freeze_norm: bool = False  # freeze every batch normalization, so that one image per batch is enough
    clip_gradient: PositiveFloat | None = None  # largest norm of the gradient
    ema: FractionBelowOne | None = None  # decay of the weights' moving average, which is then validated
    patience: PositiveInt | None = None  # validations without a better checkpoint.metric before the run ends
    nonfinite: Literal["stop", "skip"] = "stop"  # reaction to a loss or gradient that is NaN or infinite
    nonfinite_in_a_row: PositiveInt = 20  # skipped steps, fp16's overflows included, before it is an error

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError(
                f"schedule.epochs={self.epochs}, schedule.iterations={self.iterations}: exactly one must be"
                " set. Set the other one to null."
            )
        divisor = self.loader_batches * distributed.world_size()
        if self.batch_size % divisor:
            raise ValueError(
                f"schedule.batch_size={self.batch_size}: must be a multiple of {divisor}"
                f" (schedule.accumulate={self.accumulate} on {distributed.world_size()} processes)."
            )

    @property
    def loader_batches(self) -> int:
        """Batches of the loader per step; with ``accumulate=auto`` one, which is divided later if needed."""
        if self.accumulate == "auto":
            return 1
        return self.accumulate

    def length(self, samples: int) -> int:
        """Return the optimizer steps of the training on a set of ``samples`` images."""
        if self.iterations is not None:
            return self.iterations
        return math.ceil((self.epochs or 0) * self.samples_per_epoch(samples) / self.batch_size)

    def samples_per_epoch(self, samples: int) -> int:
        """Return how many images an epoch takes: all, or with ``drop_last`` those in full batches."""
        return SampleOrder(samples, 0, self.batch_size, drop_last=self.drop_last).samples_per_epoch

    def validation_period(self, every: float, samples: int) -> float:
        """Return the iterations from one validation to the next, at least 1; arguments as for ``is_due``."""
        if self.epochs is not None:
            every *= self.samples_per_epoch(samples) / self.batch_size
        return max(1.0, every)

    def is_due(self, iteration: int, *, every: float, samples: int) -> bool:
        """Return whether a periodic task is due after an iteration; it always is after the last one.

        Args:
            iteration: steps done, from 1.
            every: in epochs; in iterations if ``iterations`` gives the length.
            samples: images of the training set.
        """
        if iteration == self.length(samples):
            return True
        period = self.validation_period(every, samples)
        return int(iteration / period) > int((iteration - 1) / period)
