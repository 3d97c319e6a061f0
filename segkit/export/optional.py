"""Optional packages, imported where they are used; their absence is one line with the remedy."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(package: str) -> Any:
    """A package of the extra ``export``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"the package {package} is not installed, which this format needs: pip install 'segkit[export]'"
        ) from error
