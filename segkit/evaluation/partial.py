"""Counts of an unfinished evaluation, saved in a folder so that it can be resumed.

Each file holds the evaluators' states for some images and lists those images, so an evaluation can be resumed
with another number of processes.
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
    """Return a hash of weights, image names and protocol; counts are only added if it is equal."""
    identity = json.dumps([hash_weights(model), list(names), protocol.as_dict()])
    return hashlib.sha256(identity.encode()).hexdigest()


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class EvaluatorCounts:
    """The evaluators' states of this process, and those saved before an interruption.

    A context manager; leaving it saves the states, also after an error.

    Args:
        folder: for the states of an unfinished evaluation; None saves nothing.
        resume: continue from the states in the folder; otherwise it is emptied.

    Attributes:
        done: indices of the images counted before.
        images: indices of the images counted by this process.

    Raises:
        ValueError: the folder belongs to another evaluation.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        folder: Path | None,
        fingerprint: str,
        *,
        num_images: int,
        resume: bool,
    ) -> None:
        self.evaluators, self.folder, self.fingerprint = evaluators, folder, fingerprint
        self.num_images = num_images
        self.images: list[int] = []
        self.is_consistent = True  # all evaluators have counted the same images
        self.saved_at = time.monotonic()
        earlier = self._read_parts(folder) if folder and resume else []
        self.done = {index for part in earlier for index in part["images"]}
        self.earlier_states = [part["states"] for part in earlier]
        distributed.barrier()  # no rank writes before all have read
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
        self.is_consistent = False
        for evaluator in self.evaluators.values():
            evaluator.update(label, prediction)
        self.images.append(index)
        self.is_consistent = True
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the states of this process to a file named after its first image, which no other rank has."""
        self.saved_at = time.monotonic()
        if self.folder is None or not self.images or not self.is_consistent:
            return
        states = {name: evaluator.state().cpu() for name, evaluator in self.evaluators.items()}
        part = {"identity": self.fingerprint, "images": self.images, "states": states}
        part["sha256"] = _hash_part(part)
        with files.atomic_write(self.folder / f"{self.images[0]:08d}.pt") as file:
            torch.save(part, file)

    def sum_states(self) -> dict[str, Tensor]:
        """Return the states summed over all ranks and earlier parts, on the CPU; delete the folder."""
        totals: dict[str, Tensor] = {}
        for name, evaluator in self.evaluators.items():
            total = distributed.all_reduce_sum(evaluator.state()).cpu()
            totals[name] = sum((states[name] for states in self.earlier_states), total)
        if self.folder and distributed.is_main():
            shutil.rmtree(self.folder)
        return totals

    def _read_parts(self, folder: Path) -> list[dict[str, Any]]:
        """Return the saved parts; the images of damaged ones are scored again.

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
            if part["identity"] != self.fingerprint:
                raise ValueError(
                    f"{folder}: holds the counts of an evaluation with other weights, images or protocol. "
                    "Leave out resume=true to start again, or choose another output=..."
                )
            seen.update(part["images"])
            parts.append(part)
        return parts

    def _check_part(self, part: Any, seen: set[int]) -> None:
        """Raise an error if a part is damaged or repeats images of another part."""
        if part["sha256"] != _hash_part(part):
            raise ValueError("its content has changed")
        if part["identity"] != self.fingerprint:
            return
        images = part["images"]
        are_valid = all(type(index) is int and 0 <= index < self.num_images for index in images)
        if not are_valid or len(set(images)) < len(images) or seen & {*images}:
            raise ValueError("it lists unknown or repeated images")
        for name, evaluator in self.evaluators.items():
            own, state = evaluator.state(), part["states"][name]
            if own.shape != state.shape or own.dtype != state.dtype or bool((state < 0).any()):
                raise ValueError(f"the counts of {name} are not valid")


def _hash_part(part: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content of a part."""
    digest = hashlib.sha256(json.dumps([part["identity"], part["images"]]).encode())
    for name, state in sorted(part["states"].items()):
        digest.update(json.dumps([name, str(state.dtype), list(state.shape)]).encode())
        digest.update(state.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
