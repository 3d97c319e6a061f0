"""Pixel-level transforms of albumentations, chosen by name in ``augment.albumentations``.

Only transforms that leave the mask as it is are accepted. Names and arguments are checked when the
augmentation is built, so before training begins.
"""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from segkit.data.crops import restore_band_axis
from segkit.types import Bands

KEY = "augment.albumentations"

log = logging.getLogger("segkit")


class PixelTransforms:
    """A list of albumentations transforms, applied to an image one after another.

    Args:
        entries: ``[{"name": "CLAHE", "p": 0.2}, ...]``; the other keys are arguments of the transform.

    Raises:
        ValueError: a name or an argument is unknown, or the transform also changes masks.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        if entries:
            _warn_about_license()
        self.transforms = [_build_transform(entry) for entry in entries]

    def __call__(self, image: np.ndarray, draw: np.random.Generator, bands: Bands) -> np.ndarray:
        """Return the transformed image (H, W, C); each transform is seeded from ``draw``.

        Raises:
            ValueError: the values are not 8-bit, or a transform does not take this number of bands.
        """
        for transform in self.transforms:
            transform.set_random_seed(int(draw.integers(1 << 32)))
            try:
                is_unit_range = bands.range in ((0, 1), ((0, 1),) * image.shape[2])
                if image.dtype != np.uint8 and not (image.dtype == np.float32 and is_unit_range):
                    raise TypeError("it takes 8-bit images, or floating-point images with data.range=[0,1]")
                changed = restore_band_axis(transform(image=image)["image"])
                if (changed.shape, changed.dtype) != (image.shape, image.dtype):
                    raise TypeError(f"it returned {changed.shape} {changed.dtype}")
            except Exception as error:  # whatever OpenCV or numpy raise on bands they do not expect
                raise ValueError(
                    f"{KEY}: {type(transform).__name__} cannot be applied to images of {image.shape[2]} "
                    f"bands ({image.dtype}): {_join_lines(error)}. Remove it, or choose other data.bands"
                ) from error
            image = changed
        return image


def _build_transform(entry: Mapping[str, Any]) -> Any:
    """Return the transform of ``{"name": NAME, argument: value, ...}``, tried on an RGB image."""
    arguments, accepted = dict(entry), _pixel_transforms()
    name = str(arguments.pop("name", None))
    if name not in accepted:
        by_lowercase = {known.lower(): known for known in accepted}
        near = difflib.get_close_matches(name.lower(), by_lowercase, n=1, cutoff=0)[0]
        raise ValueError(
            f"{KEY}: {name} is no pixel-level transform; did you mean {by_lowercase[near]}? Others change "
            "the image without its mask. An entry is, for example, {name: CLAHE, p: 0.2}"
        )
    example = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Argument")  # unknown arguments are ignored otherwise
            transform = accepted[name](**arguments)
            changed = transform(image=example, force_apply=True)["image"]
        if (changed.shape, changed.dtype) != (example.shape, example.dtype):
            raise TypeError("it changes the type or number of bands; the network normalizes images itself")
    except Exception as error:  # pydantic, albumentations, OpenCV
        raise ValueError(f"{KEY}: {name} cannot be used: {_join_lines(error)}") from error
    return transform


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@cache
def _pixel_transforms() -> dict[str, type]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would access the network when imported
    import albumentations

    base = albumentations.ImageOnlyTransform
    return {
        name: value
        for name, value in vars(albumentations).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def _warn_about_license() -> None:
    """Warn if the package that provides ``import albumentations`` is albumentationsx."""
    try:
        version = metadata.version("albumentationsx")
    except metadata.PackageNotFoundError:
        return
    log.warning(
        "%s uses albumentationsx %s, whose license is AGPL-3.0 (or commercial). For the MIT-licensed "
        "library: pip uninstall albumentationsx && pip install --force-reinstall albumentations==2.0.8",
        KEY,
        version,
    )
