"""Packages of segkit's extras, which only some settings need."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(package: str, *, extra: str, needed_by: object) -> Any:
    """Import a package of an extra; a ValueError names what needs it and how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        raise ValueError(
            f"{needed_by}: {name} is not installed ({error}). Run pip install 'segkit[{extra}]'"
        ) from error
