"""Backbones by their former names: a checkpoint of then is read as one of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MERGED = {  # component -> what precedes its variant in that of ``resnet``
    "resnext": "",
    "se_resnet": "se_",
    "sge_resnet": "sge_",
    "sk_resnet": "sk_",
    "sknet": "sknet_",
}


def modern(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a backbone as a checkpoint holds them, with today's name and variant."""
    name, variant = backbone.get("name"), backbone.get("variant")
    if not isinstance(name, str) or name not in MERGED:
        return dict(backbone)
    return {**backbone, "name": "resnet", "variant": f"{MERGED[name]}{variant}"}
