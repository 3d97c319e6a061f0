"""Choose the unset settings of a training on your own images, each with its reason.

Sizes come from image headers alone. A value range, and the mean and standard deviation of bands other than
photographs, take one pass over all images.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from segkit.config import check, registry
from segkit.config.auto import find_auto
from segkit.config.dotted import value_of
from segkit.data import statistics
from segkit.data.label_map import DataError
from segkit.data.pairs import Pairs
from segkit.data.reading import read_size
from segkit.data.transforms import MAX_SIDE
from segkit.runtime.text import format_count

SAMPLED_IMAGES = 200  # whose headers are read for the median size
LARGE = 1200  # pixels of the long side from which crop and batch are those published for Cityscapes
CROPS = {"usual": 480, "large": 768}
BATCHES = {"usual": 16, "large": 8}  # published with those crops
EPOCHS = 50
MIN_STEPS, MAX_STEPS = 2_000, 80_000  # fewer is too short from ImageNet weights; more is beyond any recipe
VALIDATIONS = 20
BASE_SIZES = (16, 16_384)  # lowest and highest ``augment.base_size``


class ChosenSettings(dict[str, Any]):
    """Values by dotted key; ``reasons`` has a line for each."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def add(self, key: str, value: Any, reason: str) -> None:
        """Set a value with its reason."""
        self[key] = value
        self.reasons.append(f"{key}={_format_value(value)}: {reason}")


def choose_settings(settings: Mapping[str, Any]) -> ChosenSettings:
    """Return values for the unset keys of a training; ``ValueError`` if the images cannot be read."""
    chosen, unset = ChosenSettings(), find_auto(settings)
    if not unset or value_of(settings, "data.name") != "folder":
        return chosen
    dataset = registry.build("data.datasets", check("data", settings["data"]), split="train")
    _choose_sizes(chosen, unset, settings, dataset)
    _choose_length(chosen, unset, settings, len(dataset))
    _choose_bands(chosen, unset, dataset)
    return chosen


def _choose_sizes(
    chosen: ChosenSettings, unset: list[str], settings: Mapping[str, Any], dataset: Pairs
) -> None:
    if not {"sizes.base", "sizes.crop", "sizes.bounds", "schedule.batch_size"} & set(unset):
        return
    long, short, sampled = median_image_size(dataset)
    kind = "large" if long >= LARGE else "usual"
    if "sizes.base" in unset:
        reason = f"native resolution (median of {sampled} of {len(dataset)} images: {long}x{short})"
        chosen.add("sizes.base", clamp_side(long, settings), reason)
    if "sizes.crop" in unset:
        crop = min(CROPS[kind], max(32, short // 32 * 32))
        chosen.add("sizes.crop", crop, f"largest crop that fits the images (recipes use {CROPS[kind]})")
    if "sizes.bounds" in unset:
        bounds = clamp_side(long, settings), clamp_side(short, settings)
        chosen.add("sizes.bounds", bounds, "median size; used by augment=mmseg")
    if "schedule.batch_size" in unset:
        accumulate = value_of(settings, "schedule.accumulate")
        parts = int(os.environ.get("WORLD_SIZE", "1"))
        if isinstance(accumulate, int):
            parts *= accumulate
        batch, reason = choose_batch_size(BATCHES[kind], images=len(dataset), parts=parts)
        chosen.add("schedule.batch_size", batch, reason)


def clamp_side(side: int, settings: Mapping[str, Any]) -> int:
    """Return the length of a side, within the limits of ``augment.base_size``."""
    scales = value_of(settings, "augment.scales") or (1.0, 2.0)
    lowest, highest = BASE_SIZES
    return max(lowest, min(side, highest, int(MAX_SIDE / scales[1])))


def choose_batch_size(published: int, *, images: int, parts: int) -> tuple[int, str]:
    """Return a batch size for a data set, from the published one, and the reason as text.

    Args:
        published: batch size of the recipe with this crop.
        images: of the data set; the batch is at most the largest power of two that does not exceed it.
        parts: ranks times micro-batches, which divide the batch evenly. Each needs two images, since
            normalization after global pooling has no statistics of one.
    """
    largest_power = 1 << (max(1, images).bit_length() - 1)  # of two, up to ``images``
    fitting = min(published, largest_power)
    batch = max(2 * parts, fitting // parts * parts)
    if batch == published:
        return batch, "published with this crop"
    each = f"each micro-batch of each process ({parts})"
    return batch, f"at most the number of images ({images}), but two or more for {each}"


def _choose_length(
    chosen: ChosenSettings, unset: list[str], settings: Mapping[str, Any], images: int
) -> None:
    batch = chosen.get("schedule.batch_size") or value_of(settings, "schedule.batch_size")
    iterations, epochs = (value_of(settings, f"schedule.{unit}") for unit in ("iterations", "epochs"))
    if "schedule.iterations" in unset:
        steps = -(-EPOCHS * images // batch)
        reason = f"{EPOCHS} epochs of {images:,} images, but {MIN_STEPS:,} to {MAX_STEPS:,} steps"
        iterations = min(max(steps, MIN_STEPS), MAX_STEPS)
        chosen.add("schedule.iterations", iterations, reason)
        epochs = None
        chosen["schedule.epochs"] = None
    if "evaluation.every" not in unset:
        return
    if epochs not in (None, "auto"):
        chosen.add("evaluation.every", 1, "validating every epoch")
        return
    validations = max(VALIDATIONS, 2 * (value_of(settings, "schedule.patience") or 0))
    every = max(1, iterations // validations)
    count = format_count(iterations // every, "validation")
    chosen.add("evaluation.every", every, f"{count} in {format_count(iterations, 'iteration')}")


def _choose_bands(chosen: ChosenSettings, unset: list[str], dataset: Pairs) -> None:
    keys = {key for key in unset if key.startswith(("data.", "model."))}
    if not keys:
        return
    if keys == {"model.value_range"} and not isinstance(dataset.bands.range, str):  # needs no images
        chosen["model.value_range"] = dataset.bands.range or (0.0, 255.0)
        return
    bands, count = statistics.compute_band_statistics(dataset), len(dataset)
    ranges, method = bands.value_ranges(dataset.bands), dataset.bands.range
    if isinstance(method, str):
        reason = {"percentile": "percentiles 0.5 and 99.5", "minmax": "minimum and maximum"}[method]
        values = f"{bands.least.tolist()} .. {bands.most.tolist()}"
        chosen.add("data.range", ranges, f"{reason} of {count} images; values are {values}")
    chosen["model.value_range"] = ranges
    mean, std = bands.normalization(ranges)
    for key, values in (("model.mean", mean), ("model.std", np.where(std > 0, std, 1.0))):
        if key in keys:
            chosen.add(key, tuple(values.tolist()), f"of the bands of {count} images, scaled by their range")


def median_image_size(dataset: Pairs) -> tuple[int, int, int]:
    """Return the median long and short side, and the number of images whose headers were read."""
    places = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLED_IMAGES, len(dataset))).astype(int))
    sizes = []
    for place in places:
        with contextlib.suppress(DataError):  # ``verify`` reports it
            size = read_size(dataset.pairs[place].image)
            sizes.append((max(size), min(size)))
    if not sizes:
        raise ValueError(
            f"{dataset.pairs[0].image}: not an image, nor are the others that were sampled. "
            f"`{dataset.verify_command}` lists the problem of each"
        )
    long, short = np.median(np.array(sizes), axis=0)
    return int(long), int(short), len(sizes)


def _format_value(value: Any) -> str:
    """Format a value as on the command line, with four digits."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_format_value, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value}"
