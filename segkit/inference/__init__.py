"""Inference: from an image to class ids, under a named protocol."""

from segkit.inference.preparation import prepare
from segkit.inference.presets import of_settings
from segkit.inference.protocols import Protocol
from segkit.inference.sliding import Strip, merged_logits, predict, probabilities

__all__ = [
    "Protocol",
    "Strip",
    "merged_logits",
    "of_settings",
    "predict",
    "prepare",
    "probabilities",
]
