"""Inference: from an image to class ids or probabilities, under an evaluation protocol."""

from segkit.inference.preparation import prepare
from segkit.inference.presets import build_protocol
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, predict, predict_probabilities, scores_to_logits

__all__ = [
    "Protocol",
    "Strip",
    "build_protocol",
    "predict",
    "predict_probabilities",
    "prepare",
    "scores_to_logits",
]
