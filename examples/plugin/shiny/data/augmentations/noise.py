"""Gaussian noise on the image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from segkit.config import NonNegativeFloat
from segkit.types import Sample


def add_noise(deviation: float, sample: Sample, rng: np.random.Generator) -> Sample:
    """Add noise of a standard deviation in gray levels, from the given generator."""
    noise = rng.normal(0, deviation, sample.image.shape)
    return sample._replace(image=(sample.image + noise).clip(0, 255).astype(np.uint8))


def build(*, deviation: NonNegativeFloat = 10.0) -> Callable[[Sample, np.random.Generator], Sample]:
    """Return the augmentation; it can be pickled for loader workers."""
    return partial(add_noise, deviation)
