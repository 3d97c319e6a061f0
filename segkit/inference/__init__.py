"""From pictures to class ids and scores, under a named protocol."""

from segkit.inference.evaluate import EnoughError, Evaluation, evaluate
from segkit.inference.partial import weights_hash
from segkit.inference.predict import Strip, merged_logits, predict, probabilities
from segkit.inference.prepare import prepare
from segkit.inference.presets import of_settings
from segkit.inference.protocol import Protocol, protocol

__all__ = [
    "EnoughError",
    "Evaluation",
    "Protocol",
    "Strip",
    "evaluate",
    "merged_logits",
    "of_settings",
    "predict",
    "prepare",
    "probabilities",
    "protocol",
    "weights_hash",
]
