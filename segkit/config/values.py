"""Types of settings, and the conversion of a value to the annotated type of its key.

pydantic checks values in its strict mode: neither ``"1"`` nor 1.0 is an integer, and 1 is no boolean.
Numbers are finite, and integers fit 64 bits.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError


def expand_home(text: str) -> str:
    """Replace a leading ``~`` or ``~user`` by the home folder; a ValueError names an unknown user."""
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib would drop the slashes of an address
    if expanded.startswith("~"):
        user = text.split("/")[0][1:]
        raise ValueError(f"there is no user {user} on this machine; write the full path instead of {text}")
    return expanded


def parse_path(text: str) -> Path:
    """Return a path with ``~`` expanded; a ``type`` of ``argparse``."""
    try:
        return Path(expand_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


LARGEST = (1 << 63) - 1
PositiveInt = Annotated[int, Interval(ge=1, le=LARGEST)]
NonNegativeInt = Annotated[int, Interval(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Interval(gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, Interval(ge=0, le=1e9)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Gibibytes = Annotated[float, Interval(ge=0.001, le=1e6)]
PathStr = Annotated[str, AfterValidator(expand_home)]
PathOrNull = PathStr | None
InputSource = PathStr | list[PathStr] | None
Side = Annotated[int, Interval(ge=1, le=16384)]  # pixels; an image of such sides takes 0.8 GB
Size = Side | tuple[Side, Side]  # one side of a square, or [height, width]
Device = Literal["auto", "cpu", "cuda", "mps"] | Annotated[str, Field(pattern="^cuda:[0-9]{1,4}$")]

SHORTER = {  # than pydantic's messages
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "valid array": "valid list",
    " after validation": "",
    " or be ": " or ",
    "must Value error, ": "",
}


def convert(value: Any, annotation: Any) -> Any:
    """Return a value as its annotation has it: 1 as 1.0 for a float, a list as a tuple, 50 as "50" for text.

    Raises:
        ValueError: the value does not fit.
    """
    adapter = _adapter(annotation)
    try:
        return adapter.validate_json(json.dumps(value))  # lists of JSON are tuples as well
    except TypeError as error:
        raise ValueError("must be text, a number, true, false, null or a list") from error
    except ValidationError as error:
        try:  # numbers and words such as true are text where text is expected
            return adapter.validate_json(json.dumps(_as_text(value)))
        except ValidationError:
            raise ValueError(_describe(error)) from None


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _as_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return value


def _describe(error: ValidationError) -> str:
    """Return pydantic's messages as one rule: ``must be a valid integer or a valid list``."""
    kinds = ("_type", "literal_error", "pattern_mismatch")
    limits = [one["msg"] for one in error.errors() if not one["type"].endswith(kinds)]
    messages = limits or [one["msg"] for one in error.errors()]
    text = "must " + " or ".join(dict.fromkeys(re.sub(r"^\w+ should ", "", one) for one in messages))
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text
