"""Inference: from an image to class ids, under a named protocol."""

from segkit.inference.preparation import prepare
from segkit.inference.presets import build_protocol
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, merged_logits, predict, probabilities

__all__ = [
    "Protocol",
    "Strip",
    "build_protocol",
    "merged_logits",
    "predict",
    "prepare",
    "probabilities",
]
