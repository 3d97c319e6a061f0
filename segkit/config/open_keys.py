"""Settings with the value ``auto``: a stored run, a checkpoint, the images or usual values fill them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.config.dotted import value_of
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

USUAL: dict[str, Any] = {
    "sizes": {"base": 520, "crop": 480, "bounds": [2048, 512]},
    "schedule": {"epochs": 50, "batch_size": 16},
    "evaluation": {"every": 1},
}
"""What stands where nobody looks at the images."""

SIMPLE = ("sizes.base", "sizes.crop", "sizes.bounds", "schedule.batch_size", "evaluation.every")
LENGTH = ("schedule.epochs", "schedule.iterations")
OF_BANDS = ("data.bands", "data.display", "data.fill")
PHOTOGRAPHS = {"model.mean": IMAGENET_MEAN, "model.std": IMAGENET_STD, "model.value_range": (0.0, 255.0)}


def find_unset(settings: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys whose value is ``auto``; of a length that is not given, both."""
    found = [key for key in SIMPLE if value_of(settings, key) == "auto"]
    if value_of(settings, LENGTH[0]) == "auto":
        found += LENGTH if value_of(settings, LENGTH[1]) is None else LENGTH[:1]
    if isinstance(value_of(settings, "data.range"), str):
        found.append("data.range")
    bands = [key for key in ("data.bands", "data.range") if value_of(settings, key) is not None]
    if bands and "model" in settings:  # those of photographs then say nothing
        found += [key for key, usual in PHOTOGRAPHS.items() if _is(value_of(settings, key), usual)]
    return found


def values_for_unset(settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What other settings say of the open keys, and of bands that are not named."""
    keys = find_unset(settings)
    keys += [k for k in (*OF_BANDS, "data.range") if _there(settings, k) and value_of(settings, k) is None]
    answers = {key: value_of(known, key) for key in keys}
    answers = {key: answer for key, answer in answers.items() if answer not in (None, "auto")}
    if LENGTH[0] in keys and (answers.get(LENGTH[1]) or value_of(settings, LENGTH[1])) is not None:
        answers[LENGTH[0]] = None  # iterations give the length
    return answers


def _there(settings: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.rpartition(".")
    inner = value_of(settings, section)
    return isinstance(inner, Mapping) and name in inner


def _is(value: Any, usual: tuple[float, ...]) -> bool:
    return value is None or (isinstance(value, list | tuple) and tuple(value) == usual)
