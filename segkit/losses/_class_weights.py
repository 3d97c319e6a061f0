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
        values, text = _read(source), source
    else:
        values, text = list(source), f"[{', '.join(f'{value:g}' for value in source)}]"
    if len(values) != num_classes:
        raise ValueError(
            f"loss.class_weights={text}: {len(values)} weights for {num_classes} classes; {HINT}"
        )
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"loss.class_weights={text}: the weight of class {index} is {value:g};"
                " give each a number of at least 0"
            )
    if not any(values):
        raise ValueError(f"loss.class_weights={text}: the weights sum to 0; give at least one above 0")
    return torch.tensor(values, dtype=torch.float32)


def _read(source: str) -> list[float]:
    try:
        return [float(line) for line in files.read_text(Path(source), most=MAX_BYTES).split()]
    except OSError as error:
        raise ValueError(f"loss.class_weights={source}: {error.strerror}; {HINT}") from error
    except ValueError as error:
        raise ValueError(
            f"loss.class_weights={source}: one number per line is expected, but {str(error)[:200]}; {HINT}"
        ) from error
