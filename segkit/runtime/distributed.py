"""Processes, devices and the exchange between processes; without ``torchrun`` there is one of each.

No other module asks whether there are several processes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # of the process group


def rank() -> int:
    """Return the number of this process, 0 in a single process."""
    if _is_distributed():
        return dist.get_rank()
    return 0


def world_size() -> int:
    """Return the number of processes."""
    if _is_distributed():
        return dist.get_world_size()
    return 1


def is_main() -> bool:
    """Return whether this process logs and writes files."""
    return rank() == 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def init_process_group(choice: str = "auto") -> Iterator[torch.device]:
    """Join the process group that ``torchrun`` prepared, if any, and yield this process's device.

    Raises:
        ValueError: the chosen device does not exist.
    """
    device = pick_device(choice)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if _is_distributed():
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Join the process group described by torchrun's environment variables.

    Torchrun's store may outlive a restart and then still contains the addresses of the ended processes, so
    each start uses its own prefix. Only on one machine do all processes know the number of restarts
    (docs/clusters.md describes several machines).
    """
    store, number, size = next(dist.rendezvous("env://", timeout=TIMEOUT))  # pyright: ignore[reportPrivateImportUsage]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start_{attempt}", store)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=TIMEOUT)


def pick_device(choice: str = "auto") -> torch.device:
    """Return the device of this process.

    Args:
        choice: ``cpu``; ``cuda`` for the GPU of this process's local rank; ``cuda:N``; ``mps``; or ``auto``:
            ``cuda`` if there is one, else ``mps``, else ``cpu``.

    Raises:
        ValueError: the chosen device does not exist.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cuda": count > 0, "mps": torch.backends.mps.is_available(), "cpu": True}
    if choice == "auto":
        choice = next(name for name, is_available in available.items() if is_available)
    kind, _, number = choice.partition(":")
    if not available.get(kind):
        raise ValueError(f"device={choice}: torch finds no such device. Use device=cpu or device=auto.")
    if kind != "cuda":
        return torch.device(kind)
    own = int(os.environ.get("LOCAL_RANK", "0")) % count
    index = int(number or own)
    if index >= count:
        raise ValueError(f"device={choice}: the GPUs of this machine are cuda:0 to cuda:{count - 1}.")
    if index != own and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ValueError(f"device={choice}: one GPU for several processes. Use device=cuda, one for each.")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum over all processes in the tensor's type; the tensor itself is not changed."""
    if not _is_distributed():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def all_reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of named scalars over all processes, in one exchange."""
    if not _is_distributed():
        return dict(values)
    means = all_reduce_sum(torch.stack(list(values.values()))) / world_size()
    return dict(zip(values, means.unbind(), strict=True))


def all_reduce_max(number: int) -> int:
    """Return the largest of the processes' numbers, without waiting for a device."""
    if not _is_distributed():
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def decide_on_main(decide: Callable[[], T]) -> T:
    """Call a function on the main process and return its result on every process (plain Python objects).

    Raises:
        ValueError: the main process raised it; every process raises the same, so none waits for the others.
        OSError: the same.
    """
    outcome: list[Any] = [None, None]  # value and error
    if is_main():
        try:
            outcome[0] = decide()
        except (ValueError, OSError) as error:
            outcome[1] = error
    if _is_distributed():
        dist.broadcast_object_list(outcome)
    value, error = outcome
    if error is not None:
        raise error
    return value


def gather(value: Any) -> list[Any]:
    """Return the values of all processes in order of rank, on every process (plain Python objects)."""
    if not _is_distributed():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process has called this."""
    if _is_distributed():
        dist.barrier()


def wrap_data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model in DistributedDataParallel; return it unchanged in a single process.

    PyTorch synchronizes batch normalization on GPUs only. On a CPU every process normalizes its own images,
    and ``average_statistics`` keeps the running statistics equal.

    Raises:
        ValueError: a normalization cannot be synchronized.
    """
    if world_size() == 1:
        return model
    if device.type != "cuda":
        return nn.parallel.DistributedDataParallel(model)
    return nn.parallel.DistributedDataParallel(convert_sync_batchnorm(model), device_ids=[device.index])


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Replace every batch normalization by one over the images of all processes (CUDA).

    Raises:
        ValueError: a batch normalization overrides ``forward``, which the conversion would drop.
    """
    known, convert = [nn.BatchNorm2d.forward], nn.SyncBatchNorm.convert_sync_batchnorm
    if timm := sys.modules.get("timm.layers"):  # torch's conversion drops the activation in timm's norms
        known.append(timm.BatchNormAct2d.forward)
        convert = timm.convert_sync_batchnorm
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and type(norm).forward not in known:
            raise ValueError(
                f"several processes: {type(norm).__name__} overrides the forward pass of batch normalization,"
                " so its statistics cannot be synchronized. Train it in one process."
            )
    return convert(model)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of batch normalization over the processes."""
    if world_size() == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        means = all_reduce_sum(flat) / world_size()
        for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean)


def no_sync_until_last(runner: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context that postpones the exchange of gradients to the last micro-batch of a step."""
    if is_last or not hasattr(runner, "no_sync"):
        return contextlib.nullcontext()
    return runner.no_sync()  # pyright: ignore[reportCallIssue]


@contextlib.contextmanager
def single_process_forward(training: Any) -> Iterator[None]:
    """Let ``training.runner`` be the model of this process alone, with plain batch normalization."""
    runner, forward = training.runner, nn.SyncBatchNorm.forward
    training.runner = training.model
    nn.SyncBatchNorm.forward = nn.BatchNorm2d.forward  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        training.runner, nn.SyncBatchNorm.forward = runner, forward
