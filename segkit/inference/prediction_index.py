"""``predictions.json`` in a folder of predictions: the network, the protocol and the input of every output.

The index is written before the first prediction. A folder has predictions of one network and protocol, and
an output of another input is never overwritten.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from segkit.inference.outputs import KINDS
from segkit.runtime import files

NAME = "predictions.json"


class ImageFile(NamedTuple):
    """An input, and the name of its outputs."""

    file: Path
    name: str


class Index(BaseModel):
    """The content of ``predictions.json``."""

    source: str  # ``input=`` of the first command
    network: dict[str, Any]
    inputs: dict[str, tuple[str, int, int]]  # by the name of the outputs; see ``describe_input``


def read_index(folder: Path) -> Index | None:
    """Return the index of a folder, None if there is none.

    Raises:
        ValueError: the file was not written by segkit, or is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return Index.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path}: not an index of predictions, or damaged. Choose another output=..."
        ) from error


def drop_outputs(paths: Sequence[Path], base: Path) -> list[Path]:
    """Return the paths that are not outputs of a folder of predictions at or below ``base``."""
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(base)}
    outputs = {folder / kind for folder in folders if (folder / NAME).is_file() for kind in KINDS}
    return [path for path in paths if outputs.isdisjoint(path.parents)]


def claim_outputs(
    folder: Path,
    images: Sequence[ImageFile],
    *,
    source: str,
    network: Mapping[str, Any],
    is_default: bool,
) -> Path:
    """Write the index of the predictions of ``images``, and return the folder.

    Args:
        folder: of the predictions.
        images: with absolute paths.
        source: ``input=``, absolute.
        network: hash of the weights, and protocol, as plain values.
        is_default: ``output=`` is not set: use the first of ``folder``, ``folder-2``, ... that is free or
            belongs to the same source and network.

    Raises:
        ValueError: the folder has predictions of another network or protocol, or of another input.
        OSError: the folder cannot be written.
    """
    own = Index(source=source, network=json.loads(json.dumps(network)), inputs={})
    if is_default:
        folder = _find_own_folder(folder, own)
    index = read_index(folder) or own
    if index.network != own.network:
        raise ValueError(
            f"output={folder}: has predictions of another network or protocol. Choose another output=..."
        )
    for image in images:
        description = describe_input(image.file)
        known = index.inputs.get(image.name)
        if known != description and _is_taken(folder, image, known):
            path = known[0] if known else "an unknown file"
            raise ValueError(
                f"output={folder}: has a prediction of {image.name} from {path}, which is another file or "
                "was changed. Choose another output=..."
            )
        index.inputs[image.name] = description
    files.make_output_folder(folder)
    files.write_json(folder / NAME, index.model_dump())
    return folder


def describe_input(file: Path) -> tuple[str, int, int]:
    """Return path, bytes and time of modification (ns); the time is now for cameras and missing files."""
    if not file.exists():
        return str(file), 0, time.time_ns()
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _find_own_folder(folder: Path, own: Index) -> Path:
    """Return the first of ``folder``, ``folder-2``, ... that is free or has this source and network."""
    candidate = folder
    for number in itertools.count(2):
        index = read_index(candidate)
        if index is None and not any((candidate / kind).exists() for kind in KINDS):
            break
        if index is not None and (index.source, index.network) == (own.source, own.network):
            break
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _is_taken(folder: Path, image: ImageFile, known: tuple[str, int, int] | None) -> bool:
    """Return whether the outputs of this name belong to another file, or exist."""
    if known is not None and known[0] != str(image.file):
        return True
    suffixes = {*KINDS.values(), ".tif", ".mp4"}
    if known is not None:
        suffixes.add("")  # a folder of frames
    return any((folder / kind / f"{image.name}{suffix}").exists() for kind in KINDS for suffix in suffixes)
