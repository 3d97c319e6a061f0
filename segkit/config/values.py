"""Types of settings, and the conversion of a value to the annotated type of its key.

Limits are those of ``annotated_types``, and pydantic checks them in its strict mode: neither ``"1"`` nor 1.0
is an integer, and 1 is no boolean. Numbers are finite and fit 64 bits.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import types as python_types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Predicate


def is_cuda_device(text: str) -> bool:
    """Return whether a text is ``cuda:`` and a number; ``cuda`` alone is not."""
    return re.fullmatch(r"cuda:\d{1,4}", text) is not None


PositiveInt = Annotated[int, Interval(ge=1)]
NonNegativeInt = Annotated[int, Interval(ge=0)]
PositiveFloat = Annotated[float, Interval(gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, Interval(ge=0, le=1e9)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Gibibytes = Annotated[float, Interval(ge=0.001, le=1e6)]
PathStr = Annotated[str, "path"]  # a leading ~ is expanded
PathOrNull = PathStr | None
InputSource = PathStr | list[PathStr] | None
Side = Annotated[int, Interval(ge=1, le=16384)]  # pixels; an image of such sides takes 0.8 GB
Size = Side | tuple[Side, Side]  # one side of a square, or [height, width]
Device = Literal["auto", "cpu", "cuda", "mps"] | Annotated[str, Predicate(is_cuda_device)]


SHORTER = {  # than pydantic's messages
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "valid array": "valid list",
    " after validation": "",
    " or be ": " or ",
}


def convert(value: Any, annotation: Any) -> Any:
    """Return a value as its annotation has it: 1 as 1.0 for a float, a list as a tuple, 50 as "50" for text.

    Raises:
        ValueError: the value does not fit; the message starts with "must".
    """
    from pydantic import ValidationError  # imported late: help does without

    items = value if isinstance(value, list | tuple) else [value]
    if any(type(item) is int and abs(item) >= 1 << 63 for item in items):
        raise ValueError("must fit 64 bits")
    try:
        return _validate(value, annotation)
    except TypeError as error:
        raise ValueError("must be text, a number, true, false, null or a list") from error
    except ValidationError as error:
        message = _describe(error)
    try:  # numbers and words such as true are text where text is expected
        return _validate(
            [_as_text(item) for item in items] if items is value else _as_text(value), annotation
        )
    except ValidationError:
        raise ValueError(message) from None


def _validate(value: Any, annotation: Any) -> Any:
    converted = _adapter(annotation).validate_json(json.dumps(value))  # JSON: its lists are tuples as well
    if type(value) is float and type(converted) is int:
        raise ValueError("must be an integer")
    return converted


@functools.cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return value


def _describe(error: Any) -> str:
    """Return pydantic's messages as one rule: ``must be a valid integer or a valid list``."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    limits = [
        one for one in errors if not one["type"].endswith(("_type", "literal_error", "predicate_failed"))
    ]
    errors = limits or [one for one in errors if one["type"] != "predicate_failed"] or errors
    rules = dict.fromkeys(re.sub(r"^\w+ should ", "", one["msg"]) for one in errors)
    text = "must " + " or ".join(rules)
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; of another annotation, itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, python_types.UnionType)
    if is_union:
        return typing.get_args(annotation)
    return (annotation,)


def takes_text(annotation: Any, *, only: bool = False) -> bool:
    """Return whether an annotation accepts any text, and with ``only`` no number."""
    kinds = {kind if kind != PathStr else str for kind in members(annotation)}
    return str in kinds and not (only and any(typing.get_origin(kind) is Annotated for kind in kinds))


def takes_path(annotation: Any) -> bool:
    """Return whether text, or each text of a list, names a file or folder."""
    return any(
        kind == PathStr or (typing.get_origin(kind) is list and takes_path(typing.get_args(kind)[0]))
        for kind in members(annotation)
    )


def expand_home(text: str) -> str:
    """Replace a leading ``~`` or ``~user`` by the home folder.

    Raises:
        ValueError: there is no such user.
    """
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib would drop the slashes of an address
    if expanded.startswith("~"):
        raise ValueError(
            f"{text}: there is no user {text.split('/')[0][1:]} on this machine; write the full path"
        )
    return expanded


def parse_path(text: str) -> Path:
    """Return a path with ``~`` expanded; a ``type`` of ``argparse``."""
    try:
        return Path(expand_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
