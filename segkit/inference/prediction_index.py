"""``predictions.json`` in a folder of predictions: the input, network and protocol of every output.

The index is written before the first prediction. Outputs of another input, network or protocol are never
overwritten.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from segkit.inference.outputs import KINDS
from segkit.runtime import files

NAME = "predictions.json"
FORMAT = 1
MAX_LISTED = 3  # conflicts in an error message


class ImageFile(NamedTuple):
    """An input, and the name of its outputs."""

    file: Path
    name: str
    camera: int | None = None  # number of a camera, which has no file


class Origin(NamedTuple):
    """Input, weights and protocol of an output."""

    input: str  # absolute path
    size: int  # bytes
    modified: int  # time in nanoseconds
    network: str  # key in ``Index.networks``


class Index(NamedTuple):
    """The content of ``predictions.json``."""

    source: str  # ``input=`` of the first command
    networks: dict[str, Any]
    origins: dict[str, Origin]  # by the name of the outputs


def read_index(folder: Path) -> Index | None:
    """Return the index of a folder, None if there is none.

    Raises:
        ValueError: the file was not written by segkit, or is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(files.read_text(path, most=1 << 30))
        if content["segkit"] != FORMAT:
            raise ValueError("written by another version")
        origins = {str(name): Origin(*origin) for name, origin in content["origins"].items()}
        return Index(str(content["source"]), dict(content["networks"]), origins)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not an index of predictions, or damaged ({error}). Choose another output=..."
        ) from error


def find_outputs(folder: Path, name: str) -> list[Path]:
    """Return the existing outputs of one name: files, videos and folders of frames."""
    paths = [folder / "ids" / f"{name}.tif"]
    for kind, suffix in KINDS.items():
        paths += [folder / kind / f"{name}{end}" for end in (suffix, ".mp4", "")]
    return [path for path in paths if path.exists()]


def drop_outputs(paths: Sequence[Path], base: Path) -> list[Path]:
    """Return the paths that no index at or below ``base`` lists as an output."""
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(base)}
    listed = set[Path]()  # outputs without suffix, and folders of frames
    for folder in folders:
        with contextlib.suppress(ValueError):  # not an index of predictions
            index = read_index(folder)
            names = index.origins if index else ()
            listed |= {folder / kind / name for kind in KINDS for name in names}
    return [path for path in paths if path.with_suffix("") not in listed and path.parent not in listed]


def claim_outputs(
    folder: Path,
    images: Sequence[ImageFile],
    *,
    source: str,
    network: Mapping[str, Any],
    is_default: bool,
) -> tuple[Path, list[ImageFile]]:
    """Assign output names to the inputs, and write the index.

    Args:
        folder: of the predictions.
        images: named as in an empty folder; inputs in the index keep their names.
        source: ``input=``, absolute.
        network: hash of the weights, and protocol, as plain values.
        is_default: ``output=`` is not set: use the first of ``folder``, ``folder-2``, ... that is free or
            belongs to the same source and network.

    Returns:
        The folder and the renamed images.

    Raises:
        ValueError: outputs of another input, network or protocol have these names.
        OSError: the folder cannot be written.
    """
    plain = json.loads(json.dumps(network))
    key = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    if is_default:
        folder = _find_own_folder(folder, source, key)
    index = read_index(folder) or Index(source, {}, {})
    names = {origin.input: name for name, origin in index.origins.items()}
    new_origins = [describe_origin(image, key) for image in images]
    names_of_known_inputs = {names[origin.input] for origin in new_origins if origin.input in names}
    claimed, origins, conflicts = [], dict(index.origins), list[str]()
    for image, origin in zip(images, new_origins, strict=True):
        name = names.get(origin.input) or _make_unique(image.name, names_of_known_inputs)
        conflict = _find_conflict(folder, name, origin, origins.get(name))
        if conflict:
            conflicts.append(f"{name}: {conflict}")
        origins[name] = origin
        claimed.append(image._replace(name=name))
    if conflicts:
        lines = conflicts[:MAX_LISTED]
        if len(conflicts) > MAX_LISTED:
            lines.append(f"and {len(conflicts) - MAX_LISTED} more")
        listed = "\n  ".join(lines)
        raise ValueError(
            f"output={folder}: has other predictions of these names. Choose another output=...\n  {listed}"
        )
    content = {"segkit": FORMAT, "source": index.source, "networks": {**index.networks, key: plain}}
    files.make_output_folder(folder)
    files.write_json(folder / NAME, {**content, "origins": origins})
    return folder, claimed


def describe_origin(image: ImageFile, network: str) -> Origin:
    """Return the origin of the outputs of a file or a camera."""
    if image.camera is not None:
        return Origin(f"{image.name}, started at {time.time_ns()}", 0, 0, network)
    path = os.path.abspath(image.file)  # noqa: PTH100 - keeps symbolic links
    if not image.file.exists():  # listed but missing; reported when it is read
        return Origin(path, 0, 0, network)
    status = image.file.stat()
    return Origin(path, status.st_size, status.st_mtime_ns, network)


def _find_own_folder(folder: Path, source: str, key: str) -> Path:
    """Return the first of ``folder``, ``folder-2``, ... that is free or has this source and network."""
    for number in itertools.count(1):
        if number == 1:
            candidate = folder
        else:
            candidate = folder.with_name(f"{folder.name}-{number}")
        index = read_index(candidate)
        if index is None and not any((candidate / kind).exists() for kind in KINDS):
            return candidate
        if index is not None and index.source == source and list(index.networks) == [key]:
            return candidate
    raise AssertionError


def _make_unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number appended if it is taken."""
    if name not in taken:
        return name
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(candidate for candidate in numbered if candidate not in taken)


def _find_conflict(folder: Path, name: str, origin: Origin, known: Origin | None) -> str:
    """Return why outputs of this name must not be written, empty if they may be."""
    if known is not None and known.input != origin.input:
        return f"predicted from {known.input}"
    if known == origin or not find_outputs(folder, name):
        return ""
    if known is None:
        return f"{NAME} does not list it"
    if known.network != origin.network:
        return "predicted by another network or protocol"
    return f"predicted before {known.input} was changed"
