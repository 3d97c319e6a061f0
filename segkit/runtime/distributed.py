"""Processes, devices and the few sums between them; everything is a no-op when alone.

``torchrun`` starts and restarts the processes; nothing else in segkit asks whether there are several.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
def init_process_group(choice: str = "auto") -> Iterator[torch.device]:
    """Join the process group that ``torchrun`` prepared, if any, and yield this process's device.

    Raises:
        ValueError: the device that is asked for is not here.
    """
    device = pick_device(choice)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        _join(backend)
    try:
        yield device
    finally:
        if _several():
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Join as torchrun's environment says.

    Its store may outlive a restart and then still holds the addresses of the dead; so every start has its own
    part of it. Only on one machine do all agree on the number of restarts (docs/clusters.md has the rest).
    """
    patience = timedelta(minutes=30)
    store, mine, size = next(dist.rendezvous("env://", timeout=patience))  # pyright: ignore[reportPrivateImportUsage]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start_{attempt}", store)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=mine, world_size=size, timeout=patience)


def pick_device(choice: str = "auto") -> torch.device:
    """The device of this process.

    Args:
        choice: ``cpu``; ``cuda`` for this process's own GPU; ``cuda:N`` for a certain one; ``mps``; or
            ``auto`` for its own CUDA GPU, else an Apple GPU, else the CPU.

    Raises:
        ValueError: that device is not here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if choice == "cpu" or (choice == "auto" and not count and not apple):
        return torch.device("cpu")
    if choice == "mps" or (choice == "auto" and not count):
        if not apple:
            raise ValueError("device=mps, but torch sees no Apple GPU here; use device=cpu or device=auto")
        return torch.device("mps")
    own = int(os.environ.get("LOCAL_RANK", "0")) % max(1, count)
    index = int(choice.removeprefix("cuda:")) if choice.startswith("cuda:") else own
    if not count:
        raise ValueError(
            f"device={choice}, but torch sees no CUDA device here; use device=cpu or device=auto"
        )
    if index >= count:
        raise ValueError(f"device={choice}, but the GPUs here are cuda:0 to cuda:{count - 1}")
    if index != own and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ValueError(f"device={choice} is one GPU for several processes; use device=cuda, one for each")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in the tensor's own type; the tensor itself is left alone."""
    if not _several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def all_reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all processes of some scalars, in one exchange."""
    if not _several():
        return dict(values)
    means = all_reduce_sum(torch.stack(list(values.values()))) / world_size()
    return dict(zip(values, means.unbind(), strict=True))


def all_reduce_max(number: int) -> int:
    """The largest of the processes' numbers; no device waits for it."""
    if not _several():
        return number
    box = torch.tensor(number)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def decide_on_main(decide: Callable[[], T]) -> T:
    """What the main process finds, on every process (plain Python objects).

    Raises:
        ValueError: the main process met it; so does everyone, and nobody waits for the others.
        OSError: likewise.
    """
    value, error = None, None
    if is_main():
        try:
            value = decide()
        except (ValueError, OSError) as met:
            error = met
    value, error = broadcast((value, error))
    if error is not None:
        raise error
    return value


def broadcast(value: Any) -> Any:
    """What the main process holds, on every process (plain Python objects)."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather(value: Any) -> list[Any]:
    """What each process holds, in order of rank, on every process (plain Python objects)."""
    if not _several():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process is here."""
    if _several():
        dist.barrier()
