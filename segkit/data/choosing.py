"""Choose what a training on your own images leaves open, each value with its reason.

Sizes come from headers alone; a range, and the mean and deviation of bands that are not photographs, take one
pass over all images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from segkit.config import registry, schema
from segkit.config.dotted import value_of
from segkit.config.open_keys import find_unset
from segkit.data import statistics
from segkit.data.pairs import Pairs
from segkit.data.reading import read_size
from segkit.data.transforms import MAX_SIDE
from segkit.runtime.text import format_count

LOOKED_AT = 200  # images whose headers are read for the usual size
LARGE = 1200  # pixels of the long side from which crops are those published for Cityscapes, else for ADE20K
CROPS = {"usual": 480, "large": 768}
BATCHES = {"usual": 16, "large": 8}  # published with those crops
EPOCHS = 50
STEPS = (2_000, 80_000)  # fewer leave a network from ImageNet weights unfinished; more is beyond any recipe
VALIDATIONS = 20
SIDES = (16, 16_384)  # that ``augment.base_size`` takes


class ChosenSettings(dict[str, Any]):
    """Values by dotted key, and the reason of each in ``reasons``."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def add(self, key: str, value: Any, why: str) -> None:
        """Add a value."""
        self[key] = value
        self.reasons.append(f"{key}={_format_value(value)}: {why}")


def choose_settings(settings: Mapping[str, Any]) -> ChosenSettings:
    """Return values for the unset keys of a training's settings.

    Args:
        settings: of ``train``, with a data set of image files.

    Raises:
        ValueError: the images cannot be found or read.
    """
    chosen, wanted = ChosenSettings(), find_unset(settings)
    if not wanted:
        return chosen
    if value_of(settings, "data.name") != "folder":
        return chosen
    dataset = registry.build("data.datasets", schema.check("data", settings["data"]), split="train")
    _choose_sizes(chosen, wanted, settings, dataset)
    _choose_length(chosen, wanted, settings, len(dataset))
    _choose_bands(chosen, wanted, settings, dataset)
    return chosen


def _choose_sizes(
    chosen: ChosenSettings, wanted: list[str], settings: Mapping[str, Any], dataset: Pairs
) -> None:
    if not {"sizes.base", "sizes.crop", "sizes.bounds", "schedule.batch_size"} & set(wanted):
        return
    long, short, looked_at = median_image_size(dataset)
    sort = "large" if long >= LARGE else "usual"
    of = f"{looked_at} of {len(dataset)} images were looked at, the median is {long}x{short}"
    if "sizes.base" in wanted:
        chosen.add("sizes.base", clamp_side(long, settings), f"about the images' own size ({of})")
    if "sizes.crop" in wanted:
        crop = min(CROPS[sort], max(32, short // 32 * 32))
        chosen.add("sizes.crop", crop, f"published crop for such images, {CROPS[sort]}, as far as it fits")
    if "sizes.bounds" in wanted:
        bounds = clamp_side(long, settings), clamp_side(short, settings)
        chosen.add("sizes.bounds", bounds, "the usual size; what augment=mmseg scales to")
    if "schedule.batch_size" in wanted:
        accumulate = value_of(settings, "schedule.accumulate")
        parts = int(os.environ.get("WORLD_SIZE", "1")) * (accumulate if isinstance(accumulate, int) else 1)
        batch, why = choose_batch_size(BATCHES[sort], images=len(dataset), parts=parts)
        chosen.add("schedule.batch_size", batch, why)


def clamp_side(side: int, settings: Mapping[str, Any]) -> int:
    """Return the length of a side, within what ``augment.base_size`` takes at the scales of the settings."""
    scales = value_of(settings, "augment.scales") or (1.0, 2.0)
    return max(SIDES[0], min(side, SIDES[1], int(MAX_SIDE / scales[1])))


def choose_batch_size(published: int, *, images: int, parts: int) -> tuple[int, str]:
    """Return a batch size and its reason.

    Args:
        published: of the recipe with this crop.
        images: of the data set; a power of two that is not more is taken.
        parts: processes times accumulated batches, which share the batch evenly. Each needs two images:
            normalization after global pooling has no statistics of one.
    """
    fitting = min(published, 1 << (max(1, images).bit_length() - 1))
    batch = max(2 * parts, fitting // parts * parts)
    if batch == published:
        return batch, "published with this crop"
    if batch > fitting:
        return batch, f"two images for each of {parts} parts" if parts > 1 else "two images are the least"
    return batch, f"there are {images} images" if images > 1 else "there is 1 image"


def _choose_length(
    chosen: ChosenSettings, wanted: list[str], settings: Mapping[str, Any], images: int
) -> None:
    batch = chosen.get("schedule.batch_size") or value_of(settings, "schedule.batch_size")
    iterations, epochs = (value_of(settings, f"schedule.{unit}") for unit in ("iterations", "epochs"))
    epochs = None if epochs == "auto" else epochs
    if "schedule.iterations" in wanted:
        plain = -(-EPOCHS * images // batch)
        iterations = min(max(plain, STEPS[0]), STEPS[1])
        words = f"{EPOCHS} epochs of {images:,} images, {plain:,} steps of {batch}"
        bounds = {STEPS[0]: ", would be too few", STEPS[1]: ", would be more than any recipe"}
        chosen.add(
            "schedule.iterations", iterations, words + ("" if plain == iterations else bounds[iterations])
        )
        chosen["schedule.epochs"] = None
    if "evaluation.every" not in wanted:
        return
    if epochs is not None:
        chosen.add("evaluation.every", 1, "epoch")
    else:
        validations = max(VALIDATIONS, 2 * (value_of(settings, "schedule.patience") or 0))
        every = max(1, iterations // validations)
        words = f"{iterations:,} iteration{'s' * (iterations > 1)}"
        chosen.add("evaluation.every", every, f"{format_count(iterations // every, 'validation')} in {words}")


def _choose_bands(
    chosen: ChosenSettings, wanted: list[str], settings: Mapping[str, Any], dataset: Pairs
) -> None:
    keys = [key for key in wanted if key.startswith(("data.", "model."))]
    if not keys:
        return
    how = dataset.bands.range
    if set(keys) == {"model.value_range"} and not isinstance(how, str):
        chosen["model.value_range"] = how or (0.0, 255.0)
        return
    found = statistics.compute_band_statistics(dataset)
    if isinstance(how, str):
        limits = found.value_ranges("minmax" if how == "minmax" else "percentile")
        least, most = found.least.tolist(), found.most.tolist()
        why = "least and greatest value" if how == "minmax" else "percentiles 0.5 and 99.5"
        chosen.add("data.range", limits, f"{why} of {len(dataset)} images; they hold {least} .. {most}")
    else:
        limits = tuple(dataset.bands.value_ranges(len(found.mean)))
    chosen["model.value_range"] = limits
    mean, std = found.normalization(limits)
    why = f"of the bands of {len(dataset)} images, as shares of their range"
    for key, values in (("model.mean", mean), ("model.std", np.where(std > 0, std, 1.0))):
        if key in keys:
            chosen.add(key, tuple(values.tolist()), why)


def median_image_size(dataset: Pairs) -> tuple[int, int, int]:
    """Return the median long and short side, and the number of images they are of, spread over the split.

    Raises:
        ValueError: not one of them has a header that can be read.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).astype(int))
    found = [read_size(dataset.pairs[place].image) for place in places]
    sizes = [(max(size), min(size)) for size in found if size is not None]
    if not sizes:
        raise ValueError(
            f"{dataset.pairs[0].image}: not an image, nor is any other that was looked at; "
            f"`{dataset.verify_command}` lists what is wrong with each"
        )
    long, short = np.median(np.array(sizes), axis=0)
    return int(long), int(short), len(sizes)


def _format_value(value: Any) -> str:
    """Format a value as on the command line, with four digits."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_format_value, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
