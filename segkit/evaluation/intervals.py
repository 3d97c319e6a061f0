"""Bootstrap confidence intervals of scores, over images.

The method is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", section 4.3), which corrects the narrowness of percentiles of few images.

An evaluation keeps, for each image and class, three counts: pixels that are right, labeled and predicted.
Resampling images with replacement means weighting these counts, so that all resamples of all scores are one
matrix product. On 1,500 simulated data sets a 95 % interval covered the true score in 93.2 % to 94.3 % of
cases with 50 images, 94.0 % to 94.5 % with 100, and 94.5 % to 94.9 % with 200, depending on the score.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """Bounds of a score, fractions of 1; NaN where a class has nothing to count."""

    low: float
    high: float


def resample_images(counts: np.ndarray) -> np.ndarray:
    """Return the counts of R bootstrap data sets, each the sum over N images drawn with replacement.

    The same images are drawn for any counts, so that two results on the same images can be compared.

    Args:
        counts: (N, ...), of each image.

    Returns:
        (R, ...) float64, exact for integers.
    """
    images = len(counts)
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    totals = weights.astype(np.float64) @ counts.reshape(images, -1).astype(np.float64)
    return totals.reshape(RESAMPLES, *counts.shape[1:])


def find_bounds(values: np.ndarray, images: int) -> Interval:
    """Return the interval of resampled values (R,) of N images; NaN if all values are, or N is 1."""
    from scipy import special  # a quarter of a second, which a training does not need

    values = values[~np.isnan(values)]
    if not len(values) or images < 2:
        return Interval(float("nan"), float("nan"))
    tail = special.ndtr(math.sqrt(images / (images - 1)) * special.stdtrit(images - 1, (1 - LEVEL) / 2))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
