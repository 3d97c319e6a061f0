"""Whole networks of torchvision and segmentation_models.pytorch: what equal tensors hide, told by names.

torchvision resizes its logits with ``align_corners=False``; smp dilates the first block of a stage as much as
the others, and keeps the rates of its ASPP whatever the output stride. Neither file says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.models.mmsegmentation import format_override

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

TORCHVISION = (
    (r"^classifier\.0\.convs\.4\.", "head.aspp.b4.gap."),
    (r"^classifier\.0\.convs\.(\d)\.", r"head.aspp.b\1."),
    (r"^classifier\.0\.project\.", "head.aspp.project."),
    (r"^aux_classifier\.", "auxiliary.conv5."),
)
TORCHVISION_DEEPLABV3 = (
    *TORCHVISION,
    (r"^classifier\.1\.", "head.block.0."),
    (r"^classifier\.2\.", "head.block.1."),
    (r"^classifier\.4\.", "head.block.4."),
)
TORCHVISION_FCN = (*TORCHVISION, (r"^classifier\.", "head.conv5."))
SMP_DEEPLABV3 = (  # older files number the parts of the decoder
    (r"^encoder\.", "backbone."),
    (r"^decoder\.(aspp|0)\.convs\.4\.", "head.aspp.b4.gap."),
    (r"^decoder\.(aspp|0)\.convs\.(\d)\.", r"head.aspp.b\2."),
    (r"^decoder\.(aspp|0)\.project\.", "head.aspp.project."),
    (r"^decoder\.(conv|1)\.", "head.block.0."),
    (r"^decoder\.(bn|2)\.", "head.block.1."),
    (r"^segmentation_head\.0\.", "head.block.4."),
)
SMP_DEEPLABV3PLUS = (
    (r"^encoder\.", "backbone."),
    (r"^decoder\.aspp\.0\.convs\.4\.", "head.aspp.b4.gap."),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.", r"head.aspp.b\1."),
    (r"^decoder\.aspp\.0\.project\.", "head.aspp.project."),
    (r"^decoder\.aspp\.(1|2)\.", lambda m: f"head.refine.{int(m[1]) - 1}."),
    (r"^decoder\.block1\.", "head.fine."),
    (r"^decoder\.block2\.", "head.decoder."),
    (r"^segmentation_head\.0\.", "head.classifier.0."),
)
RULES = {
    "torchvision's DeepLabV3": TORCHVISION_DEEPLABV3,
    "torchvision's FCN": TORCHVISION_FCN,
    "smp's DeepLabV3": SMP_DEEPLABV3,
    "smp's DeepLabV3+": SMP_DEEPLABV3PLUS,
}
OTHERS = ("a network of torchvision on another backbone than ResNet", "another network of smp")
RULES |= dict.fromkeys(OTHERS, ((r"^encoder\.", "backbone."),))
HEADS = {
    "torchvision's DeepLabV3": "deeplabv3",
    "torchvision's FCN": "fcn",
    "smp's DeepLabV3": "deeplabv3",
    "smp's DeepLabV3+": "deeplabv3plus_smp",
}


def detect_source(names: Iterable[str]) -> str | None:
    """Which network the names are of, one of ``RULES``, or None for what is neither project's."""
    parts = {name.rsplit(".", 1)[0] for name in names}
    tops = {part.split(".")[0] for part in parts}

    def any_in(*starts: str) -> bool:
        return any(part.startswith(starts) for part in parts)

    if {"classifier", "backbone"} <= tops:
        if not any_in("backbone.layer4."):
            return OTHERS[0]
        return "torchvision's DeepLabV3" if any_in("classifier.0.convs.") else "torchvision's FCN"
    if {"segmentation_head", "encoder"} <= tops:
        if any_in("decoder.aspp.0.convs."):
            return "smp's DeepLabV3+"
        return "smp's DeepLabV3" if any_in("decoder.aspp.convs.", "decoder.0.convs.") else OTHERS[1]
    return None


def check_compatible(model: Segmenter, which: str, path: Path) -> None:
    """Make sure that a whole model is computed as the one that was trained.

    Args:
        model: ours.
        which: as of ``detect_source``.
        path: of the file, for the error.

    Raises:
        ValueError: it is not; every setting to change is named.
    """
    if which in OTHERS:
        raise ValueError(
            f"{path}: this is {which}; of both projects only DeepLabV3, smp's DeepLabV3+ and torchvision's "
            "FCN on a ResNet can be loaded whole. model.backbone.weights=FILE loads the backbone alone"
        )
    backbone: Any = model.backbone
    head: Any = model.head
    wanted: dict[str, tuple[Any, Any]] = {}
    if which.startswith("torchvision"):
        wanted["model.align_corners"] = model.align_corners, False
        wanted["model.backbone.output_stride"] = getattr(backbone, "output_stride", None), 8
        wanted["model.backbone.first_block"] = getattr(backbone, "first_block", "half"), "half"
    else:
        wanted["model.align_corners"] = model.align_corners, True
        wanted["model.backbone.first_block"] = getattr(backbone, "first_block", "half"), "full"
    if hasattr(head, "aspp"):
        wanted["model.head.atrous_rates"] = head.aspp.rates, (12, 24, 36)
    change = [f"{key}={format_override(value)}" for key, (own, value) in wanted.items() if own != value]
    if change:
        raise ValueError(
            f"{path}: this is {which}, which computes otherwise with equal tensors; choose model/head="
            f"{HEADS[which]} {' '.join(change)}"
        )
