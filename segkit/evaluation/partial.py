"""Counts of an unfinished evaluation, kept in a folder so that it can be continued.

Each file holds what the evaluators counted of some images and says which, so another number of processes can
go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from segkit.inference.protocol import Protocol
from segkit.runtime import distributed, files
from segkit.runtime.text import first_line
from segkit.types import Evaluator

LOG = logging.getLogger("segkit")

SAVE_EVERY = 30.0  # seconds of work that an interruption may cost


def evaluation_fingerprint(model: nn.Module, names: Sequence[str], protocol: Protocol) -> str:
    """What must be the same for counts to be of one evaluation: weights, images, protocol."""
    identity = json.dumps([hash_weights(model), list(names), protocol.as_dict()])
    return hashlib.sha256(identity.encode()).hexdigest()


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the names and values of all weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class EvaluatorCounts:
    """What this process counts, image by image, and what those before it counted.

    A context: on leaving it, whatever happened, what was counted is saved.

    Args:
        evaluators: by name; their states are what is saved and added up.
        folder: for the states of an unfinished evaluation; None keeps none.
        identity: of the evaluation, see ``evaluation_fingerprint``.
        images: number of images in the data set.
        resume: go on from what the folder holds; else it is emptied.

    Attributes:
        done: images that were counted before.

    Raises:
        ValueError: the folder belongs to another evaluation.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        folder: Path | None,
        identity: str,
        *,
        images: int,
        resume: bool,
    ) -> None:
        self.evaluators, self.folder, self.identity = evaluators, folder, identity
        self.images = images
        self.mine: list[int] = []
        self.whole = True  # every evaluator has counted the same images
        self.saved_at = time.monotonic()
        earlier = self._read_parts(folder) if folder and resume else []
        self.done = {index for part in earlier for index in part["images"]}
        self.earlier = [part["states"] for part in earlier]
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

    def add(self, index: int, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image: label and prediction (H, W), class ids."""
        self.whole = False
        for evaluator in self.evaluators.values():
            evaluator.update(label, prediction)
        self.mine.append(index)
        self.whole = True
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what this process counted, to a file named after its first image: no two share one."""
        self.saved_at = time.monotonic()
        if self.folder is None or not self.mine or not self.whole:
            return
        states = {name: evaluator.state().cpu() for name, evaluator in self.evaluators.items()}
        part = {"identity": self.identity, "images": self.mine, "states": states}
        part["sha256"] = _hash_part(part)
        with files.atomic_write(self.folder / f"{self.mine[0]:08d}.pt") as file:
            torch.save(part, file)

    def _read_parts(self, folder: Path) -> list[dict[str, Any]]:
        """Return the parts in a folder; the images of a damaged one are scored again.

        Raises:
            ValueError: a part belongs to another evaluation.
        """
        parts, seen = [], set[int]()
        for path in sorted(folder.glob("*.pt")):
            try:
                part = files.read_tensors(path)
                self._check_part(part, seen)
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
                LOG.warning("%s: damaged, its images are scored again (%s)", path, first_line(error))
                continue
            if part["identity"] != self.identity:
                raise ValueError(
                    f"{folder}: holds the counts of an evaluation with other weights, images or protocol; "
                    "leave out resume=true to start afresh, or give another output"
                )
            seen.update(part["images"])
            parts.append(part)
        return parts

    def _check_part(self, part: Any, seen: set[int]) -> None:
        """Raise an error unless a part is whole and holds images that no other part holds."""
        if part["sha256"] != _hash_part(part):
            raise ValueError("its content has changed")
        if part["identity"] != self.identity:
            return
        images = part["images"]
        is_valid = all(type(index) is int and 0 <= index < self.images for index in images)
        if not is_valid or len(set(images)) < len(images) or seen & {*images}:
            raise ValueError("it holds images that are not there, or twice")
        for name, evaluator in self.evaluators.items():
            own, state = evaluator.state(), part["states"][name]
            if own.shape != state.shape or own.dtype != state.dtype or bool((state < 0).any()):
                raise ValueError(f"the counts of {name} are not valid")

    def total(self) -> dict[str, Tensor]:
        """The states of all processes and all times, on the CPU; the folder has served and goes."""
        totals: dict[str, Tensor] = {}
        for name, evaluator in self.evaluators.items():
            total = distributed.all_reduce_sum(evaluator.state()).cpu()
            totals[name] = sum((states[name] for states in self.earlier), total)
        if self.folder and distributed.is_main():
            shutil.rmtree(self.folder)
        return totals


def _hash_part(part: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a part holds."""
    digest = hashlib.sha256(json.dumps([part["identity"], part["images"]]).encode())
    for name, state in sorted(part["states"].items()):
        digest.update(json.dumps([name, str(state.dtype), list(state.shape)]).encode())
        digest.update(state.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
