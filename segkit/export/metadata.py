"""Metadata inside an exported file, so that the file can be used without the checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segkit.config import PositiveFloat, PositiveInt
from segkit.config.values import convert, expand_home
from segkit.export.files import MODULES, find_format
from segkit.export.interfaces import ExportKind
from segkit.inference.protocol import Protocol
from segkit.runtime.text import first_line

FORMAT = 1
TYPES = {  # of the entries that are read
    "interface": Literal["ids", "logits"],
    "image_size": tuple[PositiveInt, PositiveInt] | None,
    "mean": list[float],
    "std": list[PositiveFloat],
    "align_corners": bool,
    "classes": dict,
    "settings": dict[str, dict],  # sections of the checkpoint
    "licenses": dict,
}


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
    try:
        stored = {"licenses": "{}", **MODULES[find_format(path) or "onnx"].read_metadata(path)}
    except Exception as error:  # damaged files raise anything
        raise ValueError(f"{path}: cannot be read: {first_line(error)}") from error
    try:
        metadata = {key: convert(json.loads(stored[key]), annotation) for key, annotation in TYPES.items()}
        if not 0 < len(metadata["mean"]) == len(metadata["std"]):
            raise ValueError("mean and std differ in length")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not written by export_seg.py ({error!r} in its metadata)") from error
    return metadata
