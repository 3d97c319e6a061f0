"""Counts of an evaluation, saved in a folder so that it can be resumed.

Each file holds the counts of some images and lists them, so an evaluation can be resumed with another number
of processes.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.runtime import distributed, files
from segkit.runtime.text import first_line
from segkit.types import ClassTable, Evaluator

LOG = logging.getLogger("segkit")

SAVE_EVERY = 30.0  # seconds of work that an interruption may cost
LARGEST_STATE = 4096  # elements of an evaluator whose counts are kept for each image


class Counts:
    """The evaluators' states, and what they count in each image, which the intervals of scores need.

    Args:
        evaluators: by name, with ``confusion`` among them.
        table: of the classes.
        num_images: N, of the data set.
        folder: for the counts of an unfinished evaluation; None saves nothing.
        fingerprint: of the evaluation; saved counts of another one are not used.
        resume: continue from the counts in the folder; otherwise it is emptied.

    Attributes:
        done: indices of the images counted before.
        images: indices of the images counted by this process.
        by_image: (N, ...) for each evaluator with a small state: its ``state`` of each image, of
            ``confusion`` the ``metrics.count_pixels``; zero for images that this process did not count.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        table: ClassTable,
        *,
        num_images: int,
        folder: Path | None = None,
        fingerprint: str = "",
        resume: bool = False,
    ) -> None:
        self.evaluators, self.table = evaluators, table
        self.num_images, self.folder, self.fingerprint = num_images, folder, fingerprint
        self.images: list[int] = []
        self.previous_states = self._read_small_states()
        self.by_image = {
            name: torch.zeros(num_images, *state.shape, dtype=state.dtype)
            for name, state in self.previous_states.items()
        }
        self.is_consistent = True  # all evaluators have counted the same images
        self.saved_at = time.monotonic()
        self.saved_parts = self._read_parts(folder) if folder and resume else []
        self.done = {index for part in self.saved_parts for index in part["images"]}
        distributed.barrier()  # no rank writes before all have read
        if folder and distributed.is_main():
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()

    def add(self, index: int, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image: label and prediction (H, W), class ids."""
        self.is_consistent = False
        for evaluator in self.evaluators.values():
            evaluator.update(label, prediction)
        states = self._read_small_states()
        for name, state in states.items():
            self.by_image[name][index] = state - self.previous_states[name]
        self.previous_states = states
        self.images.append(index)
        self.is_consistent = True
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the counts of this process to a file named after its first image, which no other rank has."""
        self.saved_at = time.monotonic()
        if self.folder is None or not self.images or not self.is_consistent:
            return
        part = {"fingerprint": self.fingerprint, "images": self.images, "counts": self._read_counts()}
        with files.atomic_write(self.folder / f"{self.images[0]:08d}.pt") as file:
            torch.save(part, file)

    def sum(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return states and ``by_image``, summed over all ranks and interruptions; delete the folder."""
        totals = {}
        for key, own in self._read_counts().items():
            total = distributed.all_reduce_sum(own)
            totals[key] = sum((part["counts"][key] for part in self.saved_parts), total)
        if self.folder and distributed.is_main():
            shutil.rmtree(self.folder)
        states = {name: totals[f"state of {name}"] for name in self.evaluators}
        return states, {name: totals[f"images of {name}"] for name in self.by_image}

    def _read_counts(self) -> dict[str, Tensor]:
        states = {f"state of {name}": evaluator.state().cpu() for name, evaluator in self.evaluators.items()}
        return states | {f"images of {name}": counts for name, counts in self.by_image.items()}

    def _read_small_states(self) -> dict[str, Tensor]:
        states = {}
        for name, evaluator in self.evaluators.items():
            state = evaluator.state()
            if name == "confusion":
                pixels = metrics.count_pixels(state.cpu(), self.table.categories)
                states[name] = torch.from_numpy(pixels)
            elif state.numel() <= LARGEST_STATE:
                states[name] = state.cpu().clone()
        return states

    def _read_parts(self, folder: Path) -> list[dict[str, Any]]:
        """Return the saved parts that can be used; the images of the others are scored again."""
        parts, remaining = [], set(range(self.num_images))
        own = {key: (counts.shape, counts.dtype) for key, counts in self._read_counts().items()}
        for path in sorted(folder.glob("*.pt")):
            try:
                part = files.read_tensors(path)
                if part["fingerprint"] != self.fingerprint:
                    raise ValueError("of other weights, images or settings")
                if {key: (counts.shape, counts.dtype) for key, counts in part["counts"].items()} != own:
                    raise ValueError("of other sizes or types")
                if not all((counts >= 0).all() for counts in part["counts"].values()):
                    raise ValueError("negative, or not a number")
                if not remaining.issuperset(part["images"]):
                    raise ValueError("of unknown images, or those of another file")
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
                LOG.warning("%s: cannot be used, its images are scored again (%s)", path, first_line(error))
                continue
            remaining.difference_update(part["images"])
            parts.append(part)
        return parts
