"""Values that are ``auto``: which they are, what they are without images, and how they are filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segkit.config.dotted import merge, value_of
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

USUAL: dict[str, Any] = {
    "sizes.base": 520,
    "sizes.crop": 480,
    "sizes.bounds": [2048, 512],
    "schedule.epochs": 50,
    "schedule.batch_size": 16,
    "evaluation.every": 1,
}
"""Values of ``auto`` where no images are looked at."""
BANDS = ("data.bands", "data.display", "data.fill", "data.range")
PHOTOGRAPHS = {"model.mean": IMAGENET_MEAN, "model.std": IMAGENET_STD, "model.value_range": (0.0, 255.0)}


def find_auto(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys to choose from the images: those that are ``auto``, and statistics of bands."""
    keys = [key for key in USUAL if value_of(settings, key) == "auto"]
    if "schedule.epochs" in keys and value_of(settings, "schedule.iterations") is None:
        keys.append("schedule.iterations")
    if isinstance(value_of(settings, "data.range"), str):
        keys.append("data.range")
    has_bands = any(value_of(settings, key) is not None for key in ("data.bands", "data.range"))
    if has_bands and "model" in settings:  # statistics of photographs do not apply
        for key, usual in PHOTOGRAPHS.items():
            value = value_of(settings, key)
            if value is None or (isinstance(value, list | tuple) and tuple(value) == usual):
                keys.append(key)
    return keys


def fill_auto(
    tree: Mapping[str, Any], values: Mapping[str, Any], keys: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return settings with values, by dotted key, in place of ``auto``; given iterations replace epochs.

    Args:
        tree: the settings.
        values: what to fill in, as far as it is known.
        keys: those to fill; None: those of ``find_auto``.
    """
    filled = merge(tree, {})
    keys = find_auto(tree) if keys is None else keys
    for key in keys:
        if key in values:
            section, _, name = key.rpartition(".")
            value_of(filled, section)[name] = _to_lists(values[key])
    if "schedule.epochs" in keys:
        schedule = filled["schedule"]
        schedule["iterations"] = values.get("schedule.iterations", schedule["iterations"])
        if schedule["iterations"] is not None:
            schedule["epochs"] = None
    return filled


def _to_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_to_lists(item) for item in value]
    return value
