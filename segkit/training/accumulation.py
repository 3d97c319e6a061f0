"""``schedule.accumulate=auto``: divide a batch into smaller micro-batches when memory runs out.

The gradient does not depend on how a batch is divided (``train_step``); batch normalization sees one
micro-batch at a time. A single process repeats the passes that failed. With several processes none may wait
in an exchange for one that failed, so the passes of their first steps are tried without exchanges.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segkit.runtime import distributed
from segkit.types import Batch

LOG = logging.getLogger("segkit")
RETRIED_STEPS = 10  # steps of a start that are repeated when memory runs out
TRIED_STEPS = 2  # steps that several processes try first; the second is the first with optimizer momenta

Losses = dict[str, Tensor]


def divide_until_it_fits(
    training: Any, batches: Sequence[Batch], run_passes: Callable[[list[Batch]], Losses]
) -> Losses:
    """Run the passes of a step, with the batch divided further each time memory runs out.

    Args:
        training: a ``Training``; its ``micro_batches`` are doubled when memory runs out.
        batches: of this process, on its device.
        run_passes: forward and backward passes over micro-batches, which add gradients.

    Raises:
        RuntimeError: memory ran out in some process, and the batch cannot be divided further.
    """
    step, several = training.iteration - training.first_iteration, distributed.world_size() > 1
    if step >= (TRIED_STEPS if several else RETRIED_STEPS):
        return run_passes(split(batches, training.micro_batches))
    buffers = [(buffer, buffer.clone()) for buffer in training.model.buffers()]
    while True:
        micro_batches, losses, error = split(batches, training.micro_batches), {}, None
        try:
            with distributed.single_process_forward(training) if several else contextlib.nullcontext():
                losses = run_passes(micro_batches)
        except torch.OutOfMemoryError as raised:
            error = raised.with_traceback(None)  # its frames hold the tensors of the failed passes
        has_failed = distributed.all_reduce_max(int(error is not None))
        if not has_failed and not several:
            return losses
        training.optimizer.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
        if not has_failed:
            return run_passes(micro_batches)
        _double_micro_batches(training, max(len(batch.names) for batch in batches), error)


def split(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Divide each batch into ``count`` micro-batches of consecutive images."""
    micro_batches: list[Batch] = []
    for batch in batches:
        first = 0
        images, labels = batch.image.tensor_split(count), batch.label.tensor_split(count)
        for image, label in zip(images, labels, strict=True):
            names = batch.names[first : first + len(image)]
            micro_batches.append(batch._replace(image=image, label=label, names=names))
            first += len(image)
    return micro_batches


def _double_micro_batches(training: Any, images: int, error: Exception | None) -> None:
    """Double the number of micro-batches, or raise if they became too small for batch normalization."""
    count = 2 * training.micro_batches
    fewest = 1 if training.schedule.freeze_norm else 2
    if images // count < fewest:
        raise error or RuntimeError("out of memory in another process")
    training.micro_batches = count
    gc.collect()
    if training.device.type == "cuda":
        torch.cuda.empty_cache()
    if distributed.is_main():
        LOG.warning(
            "iteration %d: out of memory; trying again with schedule.accumulate=%d (at most %d of the %d"
            " images at a time, which is what batch normalization sees)",
            training.iteration + 1,
            count,
            -(-images // count),
            images,
        )
