"""Settings are checked against the signatures they will be passed to, before anything is imported or built.

The keyword-only parameters of a function, with their annotations and defaults, say which keys exist and what
values they take. They are read from the source text, so a wrong setting is refused without importing torch.
"""

from __future__ import annotations

import ast
import difflib
import types as python_types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from segkit import components


class Range(NamedTuple):
    """Bounds of a number; ``above`` excludes its value, ``least`` and ``most`` include theirs."""

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and value == value
        )

    def __str__(self) -> str:
        words = []
        if self.above is not None:
            words.append(f"above {self.above:g}")
        if self.least is not None:
            words.append(f"at least {self.least:g}")
        if self.most is not None:
            words.append(f"at most {self.most:g}")
        return " and ".join(words)


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
Size = PositiveInt | tuple[PositiveInt, PositiveInt]  # one side of a square, or [height, width]
