"""Gaussian noise on the image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from segkit.config import NonNegativeFloat
from segkit.types import Sample


def noisy(deviation: float, sample: Sample, draw: np.random.Generator) -> Sample:
    """The sample with noise of a standard deviation in gray levels; all draws come from the generator."""
    noise = draw.normal(0, deviation, sample.image.shape)
    return sample._replace(image=(sample.image + noise).clip(0, 255).astype(np.uint8))


def build(*, deviation: NonNegativeFloat = 10.0) -> Callable[[Sample, np.random.Generator], Sample]:
    """A function that workers can get pickled."""
    return partial(noisy, deviation)
