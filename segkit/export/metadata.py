"""Metadata inside an exported file, so that the file can be used without the checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from segkit.config.values import expand_home
from segkit.export.files import find_format, import_format
from segkit.export.interfaces import ExportKind
from segkit.inference.protocol import Protocol

FORMAT = 1
REQUIRED = ("interface", "image_size", "classes", "settings", "mean", "std", "align_corners", "precision")


def build_metadata(
    trained: Any,  # a LoadedModel, whose module imports this one
    kind: ExportKind,
    settings: Mapping[str, Any],
    protocol: Protocol,
) -> dict[str, Any]:
    """Return interface, classes, normalization, protocol, settings and licenses as plain values."""
    model, table = trained.model, trained.table
    stored = {key: copy.deepcopy(settings[key]) for key in ("model", "data", "sizes") if key in settings}
    stored["model"].pop("weights", None)  # they are in the file
    stored["model"]["backbone"].pop("weights", None)
    metadata = {
        "segkit": FORMAT,
        "interface": kind.interface,
        "image_size": kind.image_size,
        "precision": kind.precision,
        "names": table.names,
        "colors": table.colors.tolist(),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "align_corners": model.align_corners,
        "protocol": protocol.as_dict(),
        "classes": table.to_plain(),
        "settings": stored,
        "licenses": dict(trained.licenses),
    }
    return json.loads(json.dumps(metadata))


def read_metadata(file: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported file.

    Raises:
        ValueError: the file is missing, damaged, or was not written by segkit.
    """
    path = Path(expand_home(str(file)))
    if not path.is_file():
        raise ValueError(f"checkpoint={file}: there is no such file")
    stored = import_format(find_format(path) or "onnx").read_metadata(path)
    try:
        metadata = {key: json.loads(stored[key]) for key in REQUIRED}
        metadata["licenses"] = json.loads(stored.get("licenses", "{}"))
        _check_metadata(metadata)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not written by export_seg.py ({error!r} in its metadata)") from error
    return metadata


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    mean, std, size = metadata["mean"], metadata["std"], metadata["image_size"]
    has_size = size is None or (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
    are_numbers = all(type(value) in (int, float) and isfinite(value) for value in [*mean, *std])
    is_valid = {
        "interface": metadata["interface"] in ("ids", "logits"),
        "image_size": has_size,
        "mean": 0 < len(mean) == len(std) and are_numbers,
        "std": min(std) > 0,
        "align_corners": isinstance(metadata["align_corners"], bool),
        "classes": isinstance(metadata["classes"], dict),
        "settings": isinstance(metadata["settings"], dict),
        "licenses": isinstance(metadata["licenses"], dict),
    }
    for key, valid in is_valid.items():
        if not valid:
            raise ValueError(f"{key} is not valid")
