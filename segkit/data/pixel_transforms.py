"""Pixel-level transforms of albumentations, chosen by name in ``augment.albumentations``.

Only transforms that leave the mask as it is are accepted. Names and arguments are checked when the
augmentation is built, so before training begins.
"""

from __future__ import annotations

import difflib
import inspect
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
            name = type(transform).__name__
            if image.dtype != np.uint8 and not (image.dtype == np.float32 and _is_unit_range(image, bands)):
                raise ValueError(
                    f"{KEY}: {name} takes 8-bit images, or floating-point images with data.range=[0,1]; "
                    f"these are {image.dtype}. Remove it, or convert the images"
                )
            transform.set_random_seed(int(draw.integers(1 << 32)))
            try:
                changed = restore_band_axis(transform(image=image)["image"])
                if (changed.shape, changed.dtype) != (image.shape, image.dtype):
                    raise TypeError(f"it returned {changed.shape} {changed.dtype}")
            except Exception as error:  # whatever OpenCV or numpy raise on bands they do not expect
                raise ValueError(
                    f"{KEY}: {name} cannot be applied to images of {image.shape[2]} bands ({image.dtype}). "
                    "Remove it, or choose other bands with data.bands"
                ) from error
            image = changed
        return image


def _is_unit_range(image: np.ndarray, bands: Bands) -> bool:
    return not isinstance(bands.range, str) and set(bands.value_ranges(image.shape[2])) == {(0, 1)}


def _build_transform(entry: Mapping[str, Any]) -> Any:
    """Return the transform of ``{"name": NAME, argument: value, ...}``, tried on an RGB image."""
    arguments, accepted = dict(entry), _pixel_transforms()
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"{KEY}={dict(entry)}: an entry needs a name, such as {{name: CLAHE, p: 0.2}}")
    if name not in accepted:
        raise ValueError(f"{KEY}: {_explain_refusal(name)}")
    parameters = list(inspect.signature(accepted[name]).parameters)
    if unknown := [key for key in arguments if key not in parameters]:
        raise ValueError(
            f"{KEY}: {name} has no argument {', '.join(map(str, unknown))}; it takes {', '.join(parameters)}"
        )
    example = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transform = accepted[name](**arguments)
            changed = transform(image=example, force_apply=True)["image"]
        except Exception as error:  # pydantic, albumentations, OpenCV
            raise ValueError(f"{KEY}: {name} cannot be used: {_describe_error(error)}") from error
    if (changed.shape, changed.dtype) != (example.shape, example.dtype):
        raise ValueError(
            f"{KEY}: {name} changes the type or number of bands of an image. The network normalizes images"
            " itself; remove it"
        )
    return transform


def _explain_refusal(name: str) -> str:
    """Return why a name is not accepted."""
    library = _import_albumentations()
    kind = getattr(library, name, None)
    if isinstance(kind, type) and issubclass(kind, library.BasicTransform):
        return (
            f"{name} is not a pixel-level transform: it would change the image without its mask. Scale, crop,"
            " flip and rotation are the other settings of augment"
        )
    by_lowercase = {known.lower(): known for known in sorted(_pixel_transforms())}
    near = difflib.get_close_matches(name.lower(), by_lowercase, cutoff=0)
    suggestions = " or ".join(by_lowercase[each] for each in near)
    return f"albumentations has no transform {name}; did you mean {suggestions}?"


def _describe_error(error: Exception) -> str:
    """Return an error in one line, those of pydantic with the argument they are about."""
    cause: Any = error.__cause__ or error.__context__ or error
    if hasattr(cause, "errors"):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in cause.errors())
    return " ".join(str(error).split())[:300]


@cache
def _pixel_transforms() -> dict[str, type]:
    library = _import_albumentations()
    base = library.ImageOnlyTransform
    return {
        name: value
        for name, value in vars(library).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def _import_albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would access the network when imported
    import albumentations

    return albumentations


def _warn_about_license() -> None:
    """Warn if the package that provides ``import albumentations`` is albumentationsx."""
    try:
        version = metadata.version("albumentationsx")
    except metadata.PackageNotFoundError:
        return
    log.warning(
        "%s uses albumentationsx %s, whose license is AGPL-3.0 (or commercial). For the MIT-licensed "
        "library: pip uninstall albumentationsx && pip install --force-reinstall albumentations==2.0.8",
        *(KEY, version),
    )
