"""Processes, devices and the few sums between them; everything is a no-op when alone.

``torchrun`` starts and restarts the processes; nothing else in segkit asks whether there are several.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes there are, 1 when alone."""
    return dist.get_world_size() if _several() else 1


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def processes(choice: str = "auto") -> Iterator[torch.device]:
    """Join the process group that ``torchrun`` prepared, if any, and yield this process's device.

    Raises:
        ValueError: ``cuda`` is asked for and there is none.
    """
    device = pick_device(choice)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield device
    finally:
        if _several():
            dist.destroy_process_group()


def pick_device(choice: str = "auto") -> torch.device:
    """The device of this process: with ``auto`` its own GPU when there is one.

    Raises:
        ValueError: ``cuda`` is asked for and there is none.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged, and on GPUs batch statistics shared, over the processes.

    ``SyncBatchNorm`` has no CPU kernels: there every process normalises with its own part of the batch.
    """
    if not _several():
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, device_ids=[device.index])
    return nn.parallel.DistributedDataParallel(model)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all processes, in the tensor's own type; the tensor itself is left alone."""
    if not _several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def from_main(value: Any) -> Any:
    """What the main process holds, on every process (plain Python objects)."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    """Wait until every process is here."""
    if _several():
        dist.barrier()
