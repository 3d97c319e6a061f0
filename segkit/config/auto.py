"""Values that are ``auto``: which they are, what they are without images, and how they are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.config.dotted import merge, set_value, value_of
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

USUAL: dict[str, Any] = {  # values of ``auto`` unless they are chosen from the images
    "sizes.base": 520,
    "sizes.crop": 480,
    "sizes.bounds": [2048, 512],
    "schedule.epochs": 50,
    "schedule.batch_size": 16,
    "evaluation.every": 1,
}
BANDS = ("data.bands", "data.display", "data.fill", "data.range")  # how images of other bands are read
PHOTO_STATS = {"model.mean": IMAGENET_MEAN, "model.std": IMAGENET_STD, "model.value_range": (0.0, 255.0)}


def find_auto(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys to choose from the images: those that are ``auto``, and statistics of bands."""
    keys = [key for key in USUAL if value_of(settings, key) == "auto"]
    if "schedule.epochs" in keys and value_of(settings, "schedule.iterations") is None:
        keys.append("schedule.iterations")
    if isinstance(value_of(settings, "data.range"), str):
        keys.append("data.range")
    has_bands = any(value_of(settings, key) is not None for key in ("data.bands", "data.range"))
    if has_bands and "model" in settings:  # statistics of photographs do not apply
        keys += [k for k, usual in PHOTO_STATS.items() if value_of(settings, k) in (None, usual, list(usual))]
    return keys


def fill_auto(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with values, by dotted key, in place of ``auto``; iterations replace epochs."""
    filled, keys = merge(tree, {}), find_auto(tree)
    for key in values.keys() & keys:
        set_value(filled, key, values[key])
    if "schedule.epochs" in keys and value_of(filled, "schedule.iterations") is not None:
        filled["schedule"]["epochs"] = None
    return filled
