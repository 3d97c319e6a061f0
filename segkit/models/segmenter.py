"""Build a segmenter from settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from segkit.config import PathStr, PositiveFloat, registry
from segkit.models.network import BYTES, Segmenter
from segkit.models.stems import set_input_bands
from segkit.models.weights import load_segmenter
from segkit.types import IMAGENET_MEAN, IMAGENET_STD, MAX_CLASSES


def remove_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the ``model`` section, or of that of its backbone, without ``weights``."""
    settings = {key: value for key, value in settings.items() if key != "weights"}
    if "backbone" in settings:
        settings["backbone"] = remove_weights(settings["backbone"])
    return settings


def fill_normalization(settings: Mapping[str, Any], backbone: Any) -> dict[str, Any]:
    """Return a copy of settings whose ``mean`` and ``std``, if None, are those that the backbone expects."""
    mean, std = getattr(backbone, "normalization", (IMAGENET_MEAN, IMAGENET_STD))
    if settings.get("mean") is not None:
        mean = settings["mean"]
    if settings.get("std") is not None:
        std = settings["std"]
    return {**settings, "mean": mean, "std": std}


def build(  # noqa: PLR0913 - one keyword for each part and rule
    num_classes: int,
    *,
    backbone: dict,
    head: dict,
    auxiliary: dict | None = None,
    align_corners: bool = True,
    mean: tuple[float, ...] | None = None,
    std: tuple[PositiveFloat, ...] | None = None,
    value_range: tuple[float, float] | tuple[tuple[float, float], ...] = BYTES,
    weights: PathStr | None = None,
    stem_weights: Literal["mean", "first_three", "fresh"] = "mean",
) -> Segmenter:
    """Build a segmenter from settings.

    Args:
        num_classes: K.
        backbone: ``name`` and settings of a component of ``models.backbones``.
        head: component of ``models.heads``.
        auxiliary: component of ``models.heads``, or None.
        align_corners: of every resize in the model.
        mean: of each band, in 0..1; its length is the number of bands. None: of RGB, as the published weights
            of the backbone expect.
        std: of each band, in 0..1. None: as for ``mean``.
        value_range: the stored values that map to 0 and 1, of all bands or of each (``data.range``).
        weights: path, ``file://`` or ``http(s)://`` of weights for the whole model, or the name of a
            published network; the backbone's own weights are then not read.
        stem_weights: how RGB filters are adapted to other bands, see ``segkit.models.stems``.

    Raises:
        ValueError: the number of classes does not fit a label, or a part's settings are wrong.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes={num_classes}: must be in 1..{MAX_CLASSES}")
    if weights is not None:
        backbone = remove_weights(backbone)
    trunk = registry.build("models.backbones", backbone)
    normalization = fill_normalization({"mean": mean, "std": std}, trunk)
    bands = len(normalization["mean"])
    if bands not in (0, 3):
        set_input_bands(trunk, bands, stem_weights if backbone.get("weights") else "fresh")
    head_inputs = {
        "in_channels": trunk.out_channels,
        "num_classes": num_classes,
        "output_stride": trunk.output_stride,
        "align_corners": align_corners,
    }
    main_head = registry.build("models.heads", head, **head_inputs)
    auxiliary_head = None
    if auxiliary:
        auxiliary_head = registry.build("models.heads", auxiliary, **head_inputs)
    model = Segmenter(
        trunk,
        main_head,
        auxiliary_head,
        num_classes=num_classes,
        align_corners=align_corners,
        value_range=value_range,
        **normalization,
    )
    if weights is not None:
        load_segmenter(model, weights, stem_weights)
    return model
