"""Shared networks: a safetensors file with settings, classes, licenses and scores in its header.

Loading one runs no code. A checkpoint may be given as a file, as a folder with ``model.safetensors``, or as
``hf://user/name`` or ``hf://user/name@revision``, which huggingface_hub downloads.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config.values import expand_home
from segkit.runtime import files
from segkit.runtime.extras import import_extra
from segkit.runtime.text import first_line

NAME = "model.safetensors"
KEY = "segkit"  # of the header: JSON with format, settings, classes, scores, licenses, iteration
CHECKSUM = "segkit_crc32"  # safetensors itself has none
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def resolve_checkpoint(source: str | Path) -> Path:
    """Return the file of a checkpoint, downloaded if ``source`` is an ``hf://`` address.

    Raises:
        ValueError: there is no such file, the address is malformed, or huggingface_hub is missing.
        OSError: the download failed.
    """
    if str(source).startswith("hf:"):
        match = ADDRESS.fullmatch(str(source))
        if match is None:
            raise ValueError(f"{source}: an address of the Hub is hf://USER/NAME or hf://USER/NAME@REVISION")
        return download(match[1], revision=match[2])
    path = Path(expand_home(str(source)))
    if path.is_dir():
        if not (path / NAME).is_file():
            raise ValueError(f"checkpoint={path}: no {NAME} in this folder. Give a file: {path}/best.pt")
        return path / NAME
    if not path.is_file():
        raise ValueError(f"checkpoint={path}: there is no such file")
    return path


def output_folder_for(source: str | Path) -> Path:
    """Return the folder for results of a checkpoint: that of its file, or one in ``runs/`` for an address."""
    if match := ADDRESS.fullmatch(str(source)):
        return Path("runs", match[1].replace("/", "--"))
    path = Path(expand_home(str(source)))
    if path.is_dir():
        return path
    return path.parent


def download(repository: str, **options: Any) -> Path:
    """Return the cached ``model.safetensors`` of a repository of the Hub.

    Args:
        repository: ``user/name``.
        **options: of ``huggingface_hub.hf_hub_download``, such as ``revision`` and ``token``.

    Raises:
        ValueError: huggingface_hub is missing.
        OSError: the download failed.
    """
    hub = import_extra("huggingface_hub", extra="hub", needed_by=f"hf://{repository}")
    try:
        return Path(hub.hf_hub_download(repository, NAME, **options))
    except Exception as error:  # of the Hub, its HTTP library, or the network
        raise OSError(
            f"cannot download {NAME} of {repository} ({first_line(error)}). "
            "Download the repository another way and give its folder: checkpoint=FOLDER"
        ) from error


def write_model_file(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata (plain values) to a file, atomically.

    Raises:
        ValueError: safetensors is missing.
    """
    safetensors = import_extra("safetensors.torch", extra="hub", needed_by=path)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(files.to_json_values(metadata), ensure_ascii=False, allow_nan=False)
    header = {"format": "pt", KEY: text, CHECKSUM: _checksum(copies, text)}
    with files.atomic_write(path) as file:
        file.write(safetensors.save(copies, metadata=header))


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a file, on the CPU, and its metadata, which is empty for files of other programs.

    Raises:
        ValueError: safetensors is missing, or the file is damaged.
    """
    safetensors = import_extra("safetensors", extra="hub", needed_by=path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = header.get(KEY, "{}")
        if KEY in header and header.get(CHECKSUM) != _checksum(tensors, text):
            raise ValueError("wrong checksum")
        metadata = json.loads(text)
    except Exception as error:  # of whatever kind a damaged file causes
        raise ValueError(f"{path}: damaged, or not a safetensors file ({first_line(error)})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: the header's {KEY!r} must be a JSON object")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Any], text: str) -> str:
    """Return the CRC-32 of the metadata and of all names, types, shapes and values."""
    import torch

    checksum = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"
