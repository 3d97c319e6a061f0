"""Counts of an unfinished evaluation, kept in a folder so that it can be continued.

Each file holds the counts of some pictures and says which, so another number of processes can go on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from segkit.inference.protocols import Protocol
from segkit.system import distributed, files

SAVE_EVERY = 30.0  # seconds of work that an interruption may cost


def fingerprint(model: nn.Module, pictures: Sequence[str], protocol: Protocol) -> str:
    """What must be the same for counts to be of one evaluation: weights, pictures, protocol."""
    identity = json.dumps([weights_hash(model), list(pictures), protocol.stated()])
    return hashlib.sha256(identity.encode()).hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of all weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class PartialCounts:
    """What this process counts, picture by picture, and what those before it counted.

    A context: on leaving it, whatever happened, what was counted is saved.

    Attributes:
        done: pictures that were counted before.
    """

    def __init__(self, counts: Tensor, folder: Path | None, identity: str, *, resume: bool) -> None:
        self.counts, self.folder, self.identity = counts, folder, identity
        self.mine: list[int] = []
        self.saved_at = time.monotonic()
        earlier = _read(folder, identity) if folder and resume else []
        self.done = {index for part in earlier for index in part["pictures"]}
        self.earlier = sum((part["counts"] for part in earlier), torch.zeros_like(counts, device="cpu"))
        distributed.barrier()  # nobody writes before all have read
        if folder and distributed.is_main():
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def add(self, index: int, counts: Tensor) -> None:
        """Count a picture."""
        self.counts += counts
        self.mine.append(index)
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what this process counted, to a file named after its first picture: no two share one."""
        self.saved_at = time.monotonic()
        if self.folder is None or not self.mine:
            return
        part = {"identity": self.identity, "pictures": self.mine, "counts": self.counts.cpu()}
        with files.whole(self.folder / f"{self.mine[0]:08d}.pt") as file:
            torch.save(part, file)

    def total(self) -> Tensor:
        """The counts of all processes and all times, on the CPU; the folder has served and goes."""
        total = distributed.sum_over_ranks(self.counts).cpu() + self.earlier
        if self.folder and distributed.is_main():
            shutil.rmtree(self.folder)
        return total


def _read(folder: Path, identity: str) -> list[dict[str, Any]]:
    parts = [files.read_tensors(path) for path in sorted(folder.glob("*.pt"))]
    if any(part["identity"] != identity for part in parts):
        raise ValueError(
            f"{folder}: holds the counts of an evaluation with other weights, pictures or protocol; "
            "leave out resume=true to start afresh, or give another output"
        )
    return parts
