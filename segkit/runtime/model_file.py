"""Networks as they are given to others: a safetensors file whose header holds settings, classes and scores.

Nothing in such a file can run. Where one lies is a file, a folder with one (``model.safetensors``), or an
address ``hf://user/name``, on request ``hf://user/name@revision``, fetched through huggingface_hub.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config.values import expand_home
from segkit.runtime import files
from segkit.runtime.errors import first_line

NAME = "model.safetensors"
KEY = "segkit"  # of the header: JSON with format, settings, classes, scores, iteration
CHECKSUM = "segkit_crc32"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def resolve_checkpoint(source: str | Path) -> Path:
    """The file of a checkpoint: its path, that in a folder, or one fetched from an ``hf://`` address.

    Raises:
        ValueError: there is no such file, the address is none, or huggingface_hub is missing.
        OSError: it could not be fetched.
    """
    words = str(source)
    if words.startswith("hf:"):
        return _fetched(words)
    path = Path(expand_home(str(source)))
    if path.is_dir():
        if not (path / NAME).is_file():
            raise ValueError(
                f"checkpoint={path}: this folder holds no {NAME}; give a file, such as {path}/best.pt"
            )
        return path / NAME
    if not path.is_file():
        raise ValueError(f"checkpoint={path}: there is no such file")
    return path


def output_folder_for(source: str | Path) -> Path:
    """The folder for what is made with a checkpoint: that of its file, or one in ``runs/`` for an address."""
    if found := ADDRESS.fullmatch(str(source)):
        return Path("runs", found[1].replace("/", "--"))
    path = Path(expand_home(str(source)))
    return path if path.is_dir() else path.parent


def _fetched(address: str) -> Path:
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: an address of the hub is hf://USER/NAME or hf://USER/NAME@REVISION")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{address}: huggingface_hub is missing ({error}); pip install 'segkit[share]'"
        ) from error
    try:
        where = os.environ.get("HF_ENDPOINT")
        return Path(huggingface_hub.hf_hub_download(found[1], NAME, revision=found[2], endpoint=where))
    except Exception as error:  # of its own, of its HTTP library, of the network
        raise OSError(
            f"cannot fetch {NAME} of {found[1]} ({first_line(error)}); fetch it some other way and give the "
            "folder that holds it, checkpoint=FOLDER"
        ) from error


def write(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write tensors with a header, whole or not at all.

    Args:
        path: of the file.
        tensors: by name.
        about: plain values for the header.

    Raises:
        ValueError: safetensors is missing.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ValueError(f"{path}: safetensors is missing ({error}); pip install 'segkit[share]'") from error
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(_plain(about), ensure_ascii=False, allow_nan=False)
    header = {"format": "pt", KEY: text, CHECKSUM: _checksum(apart, text)}
    with files.atomic_write(path) as file:
        file.write(save(apart, metadata=header))


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a file, on the CPU, and its header, which is empty for files that are not ours.

    The format has no checksum; files of segkit carry one.

    Raises:
        ValueError: safetensors is missing, or the file is damaged.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ValueError(f"{path}: safetensors is missing ({error}); pip install 'segkit[share]'") from error
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = header.get(KEY, "{}")
        if KEY in header and header.get(CHECKSUM) != _checksum(tensors, text):
            raise ValueError("the checksum differs")
        about = json.loads(text)
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise ValueError(f"{path}: damaged, or no safetensors file ({first_line(error)})") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path}: the header under {KEY!r} is no group of values")
    return tensors, about


def _checksum(tensors: Mapping[str, Any], text: str) -> str:
    """Return the CRC-32 of all names, types, shapes and values, and of the text in the header."""
    import torch

    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"


def _plain(value: Any) -> Any:
    """The same as JSON has it: lists for tuples, null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
