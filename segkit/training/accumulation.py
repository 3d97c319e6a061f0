"""``schedule.accumulate=auto``: divide a batch further where memory ends in one of the first steps.

The gradient does not depend on how a batch is divided (``train_step``); batch normalization sees one
micro-batch at a time. A single process repeats the passes that failed. Of several processes none may wait in
an exchange for one that failed, so the passes of their first steps are tried without exchanges.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segkit.runtime import distributed, replicas
from segkit.types import Batch

LOG = logging.getLogger("segkit")
FIRST = 10  # steps of a start that are repeated where memory ends
TRIED = 2  # steps that several processes try; the second is the first beside the optimizer's momenta

Losses = dict[str, Tensor]


def run_passes(training: Any, batches: Sequence[Batch], passes: Callable[[list[Batch]], Losses]) -> Losses:
    """Run forward and backward passes over the batches of a step, divided further as memory needs it.

    Args:
        training: a ``Training``; its ``micro_batches`` are doubled where memory ends.
        batches: of this process, on its device.
        passes: over micro-batches; adds gradients to those of the model.

    Raises:
        RuntimeError: memory ended in some process, and the batch cannot be divided further.
    """
    step, several = training.iteration - training.first_iteration, distributed.world_size() > 1
    if step >= (TRIED if several else FIRST):
        return passes(split(batches, training.micro_batches))
    buffers = [(buffer, buffer.clone()) for buffer in training.model.buffers()]
    while True:
        parts, losses, error = split(batches, training.micro_batches), {}, None
        alone = replicas.without_exchange(training) if several else contextlib.nullcontext()
        try:
            with alone:
                losses = passes(parts)
        except torch.OutOfMemoryError as met:
            error = met.with_traceback(None)  # its frames hold what the failed passes computed
        failed = distributed.all_reduce_max(int(error is not None))
        if not failed and not several:
            return losses
        training.optimizer.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
        if not failed:
            return passes(parts)
        _double(training, max(len(batch.names) for batch in batches), error)


def split(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Divide each batch into ``count`` micro-batches of consecutive images."""
    found: list[Batch] = []
    for batch in batches:
        first = 0
        for image, label in zip(
            batch.image.tensor_split(count), batch.label.tensor_split(count), strict=True
        ):
            names = batch.names[first : first + len(image)]
            found.append(batch._replace(image=image, label=label, names=names))
            first += len(image)
    return found


def _double(training: Any, images: int, error: Exception | None) -> None:
    """Double the micro-batches, or raise where they would be too small for batch normalization."""
    count = 2 * training.micro_batches
    if images // count < (1 if training.schedule.freeze_norm else 2):
        raise error or RuntimeError("out of memory in another process")
    training.micro_batches = count
    gc.collect()
    if training.device.type == "cuda":
        torch.cuda.empty_cache()
    if distributed.is_main():
        LOG.warning(
            "iteration %d: out of memory; trying again with schedule.accumulate=%d (at most %d of the %d"
            " images at a time, over which batch normalization takes its statistics)",
            *(training.iteration + 1, count, -(-images // count), images),
        )
