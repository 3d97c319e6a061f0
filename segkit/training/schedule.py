"""How long a training is, how many images a step sees, and by which rule the weights move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from segkit.config import FractionBelowOne, PositiveFloat, PositiveInt, Range
from segkit.runtime import distributed


@dataclass(frozen=True)
class Schedule:
    """How long, how many at a time, and by which rule the weights move."""

    batch_size: Annotated[int, Range(least=1, most=65536)]  # images of an optimizer step, over all processes
    lr: Annotated[float, Range(above=0, most=1000)]  # of the backbone
    optimizer: dict
    lr_schedule: dict
    epochs: Annotated[float, Range(above=0, most=100000)] | None = None  # one of the two ...
    iterations: Annotated[int, Range(least=1, most=100000000)] | None = None  # ... gives the length, in steps
    drop_last: bool = False  # an epoch leaves out what fills no batch, as the original recipe has it
    accumulate: Literal["auto"] | Annotated[int, Range(least=1, most=65536)] = "auto"
    head_lr_multiplier: Annotated[float, Range(above=0, most=10000)] = 1.0
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0  # of the rate, from one stage to that before
    decay_norm_and_bias: bool = True
    freeze: Literal[0, 1, 2, 3, 4] = (
        0  # stages of the backbone, the stem with the first, that stay as they are
    )
    freeze_norm: bool = False  # every batch normalization stays as it is, so that one image is batch enough
    clip_gradient: PositiveFloat | None = None  # largest norm of the whole gradient
    ema: FractionBelowOne | None = (
        None  # decay of the moving average of the weights, which is then what is scored
    )
    patience: PositiveInt | None = None  # validations without a better checkpoint.metric, before the run ends
    nonfinite: Literal["stop", "skip"] = "stop"  # what a loss or gradient that is NaN or infinite does
    nonfinite_in_a_row: PositiveInt = 20  # skipped steps, fp16's overflows included, before it is an error

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError(
                f"schedule.epochs={self.epochs} and schedule.iterations={self.iterations}:"
                " give one of the two and set the other to null"
            )
        parts = self.parts * distributed.world_size()
        if self.batch_size % parts:
            raise ValueError(
                f"schedule.batch_size={self.batch_size} does not divide into {self.parts} parts"
                f" (schedule.accumulate) on {distributed.world_size()} processes; use a multiple of {parts}"
            )

    @property
    def parts(self) -> int:
        """Micro-batches of a step as the loader makes them; ``auto`` divides them later."""
        return 1 if self.accumulate == "auto" else self.accumulate

    def length(self, samples: int) -> int:
        """Optimizer steps of the whole training on so many samples."""
        return self.iterations or math.ceil(
            (self.epochs or 0) * self.samples_per_epoch(samples) / self.batch_size
        )

    def samples_per_epoch(self, samples: int) -> int:
        """How many of so many samples an epoch takes; a set that fills no batch is taken whole."""
        whole = samples - samples % self.batch_size
        return whole if self.drop_last and whole else samples

    def validations(self, *, every: float, samples: int) -> int:
        """How many validations the whole training has; arguments as for ``due``."""
        length, period = self.length(samples), max(1, self.period(every, samples))
        return int((length - 1) / period) + 1

    def period(self, every: float, samples: int) -> float:
        """Iterations from one validation to the next; arguments as for ``due``."""
        return every if self.epochs is None else every * self.samples_per_epoch(samples) / self.batch_size

    def due(self, iteration: int, *, every: float, samples: int) -> bool:
        """Whether something done every so often is due after an iteration; always after the last one.

        Args:
            iteration: steps done, from 1.
            every: in epochs, or in iterations where those give the schedule's length.
            samples: of the training set.
        """
        if iteration == self.length(samples):
            return True
        period = self.period(every, samples)
        return int(iteration / period) > int((iteration - 1) / period)
