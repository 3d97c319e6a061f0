"""``predictions.json`` in a folder of predictions: the input, network and protocol of every output.

An output belongs to one input. The index is written before the first prediction, and an output of another
input, network or protocol is never written over.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from segkit.inference.outputs import KINDS
from segkit.runtime import files

NAME = "predictions.json"
FORMAT = 1
SHOWN = 3  # conflicts listed in an error


class ImageFile(NamedTuple):
    """An input, and the name of its outputs."""

    file: Path
    name: str
    camera: int | None = None  # its number; there is no file then


class Origin(NamedTuple):
    """Input, weights and protocol of an output."""

    input: str  # absolute path
    size: int  # bytes
    modified: int  # time in nanoseconds
    network: str  # key in ``networks``


class Index(NamedTuple):
    """The content of ``predictions.json``."""

    source: str  # ``input=`` of the first command
    networks: dict[str, Any]
    origins: dict[str, Origin]  # by the name of the outputs


def read_index(folder: Path) -> Index | None:
    """Return the index of a folder, None where there is none.

    Raises:
        ValueError: there is a file of this name that segkit did not write.
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
    """Return all that lies in a folder under the name of one input."""
    places = [
        folder / kind / f"{name}{end}" for kind, suffix in KINDS.items() for end in (suffix, ".mp4", "")
    ]
    return [place for place in [*places, folder / "ids" / f"{name}.tif"] if place.exists()]


def drop_outputs(paths: Iterable[Path], base: Path) -> list[Path]:
    """Return the paths that no index at or below ``base`` lists as an output."""
    names: dict[Path, set[str]] = {}

    def is_output(path: Path) -> bool:
        for folder in path.parents:
            if folder not in names:
                try:
                    index = read_index(folder)
                except ValueError:
                    index = None
                names[folder] = set(index.origins) if index else set()
            kind, *parts = path.relative_to(folder).with_suffix("").parts
            is_listed = {"/".join(parts), "/".join(parts[:-1])} & names[folder]  # an image, a video's frame
            if kind in KINDS and is_listed:
                return True
            if folder == base:
                break
        return False

    return [path for path in paths if not is_output(path)]


def claim_outputs(
    folder: Path,
    images: Sequence[ImageFile],
    *,
    source: str,
    network: Mapping[str, Any],
    is_default: bool,
) -> tuple[Path, list[ImageFile]]:
    """Give each input its name in a folder, and write the index.

    Args:
        folder: of the predictions.
        images: named as in an empty folder; an input that the index lists keeps its name.
        source: ``input=``, absolute.
        network: hash of the weights and protocol, plain values.
        is_default: the user named no folder; one of another source or network is left alone, and the next
            free of ``folder-2``, ``folder-3``, ... is taken.

    Returns:
        The folder and the images.

    Raises:
        ValueError: there are outputs of another input, network or protocol.
        OSError: the folder cannot be written.
    """
    plain = json.loads(json.dumps(network))
    key = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    if is_default:
        folder = _find_own_folder(folder, source, key)
    index = read_index(folder) or Index(source, {}, {})
    names = {origin.input: name for name, origin in index.origins.items()}
    claimed, origins, conflicts = [], dict(index.origins), list[str]()
    own = {names[path] for image in images if (path := describe_origin(image, key).input) in names}
    for image in images:
        origin = describe_origin(image, key)
        name = names.get(origin.input) or _find_free(image.name, own)
        conflict = _find_conflict(folder, name, origin, origins.get(name))
        if conflict:
            conflicts.append(f"{name}: {conflict}")
        origins[name] = origin
        claimed.append(image._replace(name=name))
    if conflicts:
        more = f"\n  and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        listed = "\n  ".join(conflicts[:SHOWN])
        raise ValueError(
            f"output={folder}: has other predictions of these names. Choose another output=...\n"
            f"  {listed}{more}"
        )
    content = {"segkit": FORMAT, "source": index.source, "networks": {**index.networks, key: plain}}
    files.make_output_folder(folder)
    with files.atomic_write(folder / NAME) as file:
        file.write(json.dumps({**content, "origins": origins}, indent=0, ensure_ascii=False).encode())
    return folder, claimed


def describe_origin(image: ImageFile, network: str) -> Origin:
    """Return the origin of what is predicted from a file or a camera."""
    if image.camera is not None:
        return Origin(f"{image.name}, started at {time.time_ns()}", 0, 0, network)
    file = image.file
    status = file.stat() if file.exists() else None  # a missing file of a list is reported when it is read
    size, modified = (status.st_size, status.st_mtime_ns) if status else (0, 0)
    return Origin(os.path.abspath(file), size, modified, network)  # noqa: PTH100 - symbolic links stay


def _find_own_folder(folder: Path, source: str, key: str) -> Path:
    for number in itertools.count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        index = read_index(place)
        if index is None and not any((place / kind).exists() for kind in KINDS):
            return place
        if index is not None and index.source == source and list(index.networks) == [key]:
            return place
    raise AssertionError


def _find_free(name: str, taken: set[str]) -> str:
    """Return the name, with a number where another image of the same source has it already."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _find_conflict(folder: Path, name: str, origin: Origin, known: Origin | None) -> str:
    """Return why outputs of this name may not be written, empty where they may."""
    if known is not None and known.input != origin.input:
        return f"predicted from {known.input}"
    if known == origin or not find_outputs(folder, name):
        return ""
    if known is None:
        return f"{NAME} does not list it"
    if known.network != origin.network:
        return "predicted by another network or protocol"
    return f"predicted before {known.input} was changed"
