"""A segmenter: backbone, head, and in training an auxiliary head; pictures in, logits of their size out."""

from __future__ import annotations

from segkit import components
from segkit.models.network import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from segkit.models.weights import load_segmenter
from segkit.types import IGNORE_INDEX


def build(
    num_classes: int,
    *,
    backbone: dict,
    head: dict,
    auxiliary: dict | None = None,
    align_corners: bool = True,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    weights: str | None = None,
) -> Segmenter:
    """A segmenter from settings.

    Args:
        num_classes: K.
        backbone: ``name`` and settings of a component of ``models.backbones``.
        head: of ``models.heads``.
        auxiliary: of ``models.heads``, or None for none.
        align_corners: how every resize in the model places its samples.
        mean: of RGB in 0..1, subtracted first.
        std: of RGB in 0..1, divided by.
        weights: path, ``file://`` or ``http(s)://`` of weights for the whole model (the backbone's own are
            then not read); None keeps those of the parts.

    Raises:
        ValueError: the number of classes does not fit a label, or a part's settings are wrong.
    """
    if not 1 <= num_classes <= IGNORE_INDEX:
        raise ValueError(
            f"num_classes {num_classes} is not in 1..{IGNORE_INDEX}: labels are uint8 and 255 is ignored"
        )
    if weights is not None:
        backbone = {**backbone, "weights": None}
    trunk = components.build("models.backbones", backbone)
    late = {"in_channels": trunk.out_channels, "num_classes": num_classes}
    late |= {"output_stride": trunk.output_stride, "align_corners": align_corners}
    model = Segmenter(
        trunk,
        components.build("models.heads", head, **late),
        components.build("models.heads", auxiliary, **late) if auxiliary else None,
        num_classes=num_classes,
        align_corners=align_corners,
        mean=mean,
        std=std,
    )
    if weights is not None:
        load_segmenter(model, weights)
    return model
