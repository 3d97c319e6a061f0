"""What a setting may be: numbers with bounds, words of a form, lists; how a value becomes one, and in words.

Every number is finite and fits 64 bits, so that nothing below has to ask.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import types as python_types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple


class Range(NamedTuple):
    """Bounds of a number; ``above`` and ``below`` are excluded, ``least`` and ``most`` are included."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies within."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = []
        if self.above is not None:
            words.append(f"above {self.above:g}")
        if self.least is not None:
            words.append(f"at least {self.least:g}")
        if self.most is not None:
            words.append(f"at most {self.most:g}")
        if self.below is not None:
            words.append(f"below {self.below:g}")
        return " and ".join(words)


class FileOrFolder(NamedTuple):
    """Marks text that names a file or folder; ``schema.expand_paths`` replaces a leading ``~``."""

    def holds(self, value: str) -> bool:
        """Accept any text."""
        return True

    def __str__(self) -> str:
        return "text"


class Form(NamedTuple):
    """Text of a form: a regular expression, and what it means in words."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        """Whether the whole text is of the form."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0, most=1e9)]
NonNegativeFloat = Annotated[float, Range(least=0, most=1e9)]
Fraction = Annotated[float, Range(least=0, most=1)]
FractionBelowOne = Annotated[float, Range(least=0, below=1)]
Gibibytes = Annotated[float, Range(least=0.001, most=1e6)]
PathStr = Annotated[str, FileOrFolder()]
PathOrNull = PathStr | None
InputSource = PathStr | list[PathStr] | None
Side = Annotated[int, Range(least=1, most=16384)]  # pixels; an image of such sides takes 0.8 GB
Size = Side | tuple[Side, Side]  # one side of a square, or [height, width]
Device = Annotated[str, Form(r"auto|cpu|mps|cuda(:\d{1,4})?", "one of auto, cpu, cuda, cuda:N, mps")]


def coerce(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it.

    An int where a float is meant becomes one, a list where a tuple is meant likewise. Where text is meant,
    ``1``, ``0.8`` and ``true`` are text: nobody quotes the name of a run.

    Raises:
        ValueError: the value does not fit.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        value = coerce(value, arguments[0])
        if all(limit.holds(value) for limit in arguments[1:]):
            return value
    elif origin is Literal:
        if any(value == word and type(value) is type(word) for word in arguments):
            return value
        if type(value) is int and str(value) in arguments:  # a depth such as 50, unquoted
            return str(value)
    elif origin in (typing.Union, python_types.UnionType):
        return _first_fit(value, arguments)
    elif origin in (list, tuple):
        return _coerce_items(value, origin, arguments)
    elif annotation in (None, type(None)) and value is None:
        return None
    elif isinstance(annotation, type):
        return _coerce_plain(value, annotation)
    raise ValueError(value)


def _coerce_plain(value: Any, kind: type) -> Any:
    if kind is float and type(value) in (int, float) and _fits_64_bits(value):
        return float(value)
    if kind is int and type(value) is int and _fits_64_bits(value):
        return value
    if kind is str and isinstance(value, bool):
        return str(value).lower()
    if kind is str and isinstance(value, int | float):
        return str(value)
    if kind not in (int, float) and type(value) is kind:
        return value
    raise ValueError(value)


def _fits_64_bits(value: float) -> bool:
    return abs(value) < 1 << 63 if type(value) is int else math.isfinite(value)


def _first_fit(value: Any, annotations: Iterable[Any]) -> Any:
    for annotation in sorted(
        annotations, key=lambda kind: kind in (str, PathStr)
    ):  # anything else before text
        try:
            return coerce(value, annotation)
        except ValueError:
            continue
    raise ValueError(value)


def _coerce_items(value: Any, origin: type, arguments: tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    variadic = origin is list or arguments[-1] is Ellipsis
    kinds = (arguments[0],) * len(value) if variadic else arguments
    if len(kinds) != len(value):
        raise ValueError(value)
    return origin(coerce(item, kind) for item, kind in zip(value, kinds, strict=True))


def takes_text(annotation: Any) -> bool:
    """Whether text is wanted and no number, so that ``2026_11`` is a name there and not 202611."""
    kinds = [str if kind == PathStr else kind for kind in members(annotation)]
    return str in kinds and not any(typing.get_origin(kind) is Annotated for kind in kinds)


def takes_path(annotation: Any) -> bool:
    """Return whether text, or each text of a list, names a file or folder."""
    kinds = members(annotation)
    return PathStr in kinds or any(
        takes_path(typing.get_args(k)[0]) for k in kinds if typing.get_origin(k) is list
    )


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; of another annotation, itself."""
    union = typing.get_origin(annotation) in (typing.Union, python_types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def expand_home(text: str) -> str:
    """Replace a leading ``~`` or ``~user`` by the home folder.

    Raises:
        ValueError: there is no such user.
    """
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib would drop the slashes of an address
    if expanded.startswith("~"):
        raise ValueError(
            f"{text}: there is no user {text.split('/')[0][1:]} on this machine; write the whole path"
        )
    return expanded


def parse_path(text: str) -> Path:
    """Return a path with ``~`` expanded, as the type of an argument of ``argparse``."""
    try:
        return Path(expand_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def describe(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = " and ".join(str(limit) for limit in arguments[1:])
        return limits if arguments[0] is str else f"{describe(arguments[0])} {limits}"
    if origin is Literal:
        return f"one of {', '.join(str(word) for word in arguments)}"
    if origin in (typing.Union, python_types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list of {describe(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(describe(argument) for argument in arguments)}]"
    plain = {str: "text", int: "an integer", float: "a number", bool: "true or false", dict: "a group"}
    return plain.get(annotation, "null")
