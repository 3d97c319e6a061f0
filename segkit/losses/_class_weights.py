"""Weights of the classes, from the settings or from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segkit.runtime import commands, files

LARGEST = 1_000_000  # bytes of a file; 255 numbers need a few thousand
REMEDY = f"`{commands.cli_command('data')} stats --weights FILE` writes such a file"


def read_class_weights(source: str | Sequence[float] | None, num_classes: int) -> Tensor:
    """(K,) float32 weights; ones when none are given.

    Raises:
        ValueError: there are not K weights, one is negative or not finite, all are 0, or the file cannot be
            read as numbers.
    """
    if source is None:
        return torch.ones(num_classes)
    shown = source if isinstance(source, str) else f"[{', '.join(f'{value:g}' for value in source)}]"
    values = _read(source) if isinstance(source, str) else list(source)
    if len(values) != num_classes:
        raise ValueError(
            f"loss.class_weights={shown}: {len(values)} weights for {num_classes} classes; {REMEDY}"
        )
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"loss.class_weights={shown}: the weight of class {index} is {value:g};"
                " give each a number of at least 0"
            )
    if not any(values):
        raise ValueError(f"loss.class_weights={shown}: the weights sum to 0; give at least one above 0")
    return torch.tensor(values, dtype=torch.float32)


def _read(source: str) -> list[float]:
    try:
        return [float(line) for line in files.read_text(Path(source), most=LARGEST).split()]
    except OSError as error:
        raise ValueError(f"loss.class_weights={source}: {error.strerror}; {REMEDY}") from error
    except ValueError as error:
        raise ValueError(
            f"loss.class_weights={source}: one number a line is wanted, but {str(error)[:200]}; {REMEDY}"
        ) from error
