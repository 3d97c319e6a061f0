"""Class weights from the settings or from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segkit.runtime import commands, files

MAX_BYTES = 1_000_000  # of a file; 255 numbers need a few thousand
HINT = f"`{commands.cli_command('data')} stats --weights FILE` writes such a file"


def read_class_weights(source: str | Sequence[float] | None, num_classes: int) -> Tensor:
    """Return (K,) float32 weights; ones by default.

    Raises:
        ValueError: the weights are not K finite numbers of at least 0, or all are 0, or the file cannot be
            read.
    """
    if source is None:
        return torch.ones(num_classes)
    if isinstance(source, str):
        text, values = source, _read(source)
    else:
        text, values = f"[{', '.join(f'{value:g}' for value in source)}]", list(source)
    if len(values) != num_classes:
        raise ValueError(
            f"loss.class_weights={text}: {len(values)} weights for {num_classes} classes; {HINT}"
        )
    if not (all(math.isfinite(value) and value >= 0 for value in values) and any(values)):
        raise ValueError(
            f"loss.class_weights={text}: give each class a finite number of at least 0, and one class a "
            "number above 0"
        )
    return torch.tensor(values, dtype=torch.float32)


def _read(source: str) -> list[float]:
    try:
        return [float(line) for line in files.read_text(Path(source), most=MAX_BYTES).split()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise ValueError(
            f"loss.class_weights={source}: must be a file with one number per line ({reason}); {HINT}"
        ) from error
