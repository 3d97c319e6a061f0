"""Position of a run in its training data, and whether a resumed run can continue there.

An iteration takes the next ``batch_size`` samples of one stream (``segkit.data.loaders.SampleOrder``), so a
run continues at the same place only if the batch size and the length of an epoch are unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple


def digest_names(names: Iterable[str]) -> str:
    """Return a digest of file names, in their order."""
    return hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest()


class Position(NamedTuple):
    """Position of a run in its training data."""

    samples_seen: int
    batch_size: int
    images: int  # of the training set
    epoch: int  # samples of an epoch
    files: str  # digest of the names of the training images

    def compare(self, saved: Position) -> list[str]:
        """Return warnings about what changed since a checkpoint.

        Raises:
            ValueError: the run cannot continue at the same position.
        """
        at = f"{saved.samples_seen:,} samples ({saved.samples_seen / saved.epoch:.2f} epochs)"
        restart = "or start a new run_name=... from its weights with model.weights=FOLDER/last.pt"
        if self.batch_size != saved.batch_size:
            raise ValueError(
                f"schedule.batch_size={self.batch_size}: the run was trained with {saved.batch_size} up to"
                f" {at}, and its schedule counts batches. Resume with the same batch size"
                f" (schedule.accumulate=2 takes less memory), {restart}."
            )
        if self.images != saved.images:
            raise ValueError(
                f"data: {self.images:,} training images, and the run was trained on {saved.images:,} up to"
                f" {at}. Resume with the same images, {restart}."
            )
        if self.epoch != saved.epoch:
            raise ValueError(
                f"schedule.drop_last: an epoch has {self.epoch:,} samples, and had {saved.epoch:,} when the"
                f" run was saved. Resume with the same value, {restart}."
            )
        if self.files != saved.files:
            return [
                "careful: other training files than when the checkpoint was written (as many as before); the"
                " run continues with these"
            ]
        return []
