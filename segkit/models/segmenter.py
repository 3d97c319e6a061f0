"""A segmenter: backbone, head, and in training an auxiliary head; images in, logits of their size out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.config import PathStr, PositiveFloat, registry
from segkit.models.network import BYTES, Segmenter
from segkit.models.stems import Rule, set_input_bands
from segkit.models.weights import load_segmenter
from segkit.types import IMAGENET_MEAN, IMAGENET_STD, MOST_CLASSES


def without_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` section, or one of its backbone, with nothing to load; not every backbone has weights."""
    left = {key: value for key, value in settings.items() if key != "weights"}
    return left | ({"backbone": without_weights(left["backbone"])} if "backbone" in left else {})


def build(  # noqa: PLR0913 - one keyword for each part and rule
    num_classes: int,
    *,
    backbone: dict,
    head: dict,
    auxiliary: dict | None = None,
    align_corners: bool = True,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[PositiveFloat, ...] = IMAGENET_STD,
    value_range: tuple[float, float] | tuple[tuple[float, float], ...] = BYTES,
    weights: PathStr | None = None,
    stem_weights: Rule = "mean",
) -> Segmenter:
    """A segmenter from settings.

    Args:
        num_classes: K.
        backbone: ``name`` and settings of a component of ``models.backbones``.
        head: of ``models.heads``.
        auxiliary: of ``models.heads``, or None for none.
        align_corners: how every resize in the model places its samples.
        mean: of each band in 0..1, subtracted first; there are as many bands as means.
        std: of each band in 0..1, divided by.
        value_range: the stored values that are 0 and 1, of all bands or of each (``data.range``).
        weights: path, ``file://`` or ``http(s)://`` of weights for the whole model, or the name of a
            published network (the backbone's own are then not read); None keeps those of the parts.
        stem_weights: how weights of RGB are carried over to other bands, see ``segkit.models.stems``.

    Raises:
        ValueError: the number of classes does not fit a label, or a part's settings are wrong.
    """
    if not 1 <= num_classes <= MOST_CLASSES:
        raise ValueError(f"num_classes {num_classes} is not in 1..{MOST_CLASSES}: labels are int16 at most")
    if not mean or len(mean) != len(std):
        raise ValueError(
            f"model.mean has {len(mean)} values and model.std {len(std)}: give one of each for a band"
        )
    if weights is not None:
        backbone = without_weights(backbone)
    trunk = registry.build("models.backbones", backbone)
    if len(mean) != 3:
        set_input_bands(trunk, len(mean), stem_weights if backbone.get("weights") else "fresh")
    late = {"in_channels": trunk.out_channels, "num_classes": num_classes}
    late |= {"output_stride": trunk.output_stride, "align_corners": align_corners}
    model = Segmenter(
        trunk,
        registry.build("models.heads", head, **late),
        registry.build("models.heads", auxiliary, **late) if auxiliary else None,
        num_classes=num_classes,
        align_corners=align_corners,
        mean=mean,
        std=std,
        value_range=value_range,
    )
    if weights is not None:
        load_segmenter(model, weights, stem_weights)
    return model
