"""A model in every process: gradients are averaged, and on GPUs batch statistics are shared."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from segkit.runtime import distributed


def wrap_data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model in DistributedDataParallel; return it unchanged in a single process.

    PyTorch synchronizes batch normalization on GPUs alone. On a CPU every process normalizes its own images,
    and ``average_statistics`` keeps the running statistics equal.

    Raises:
        ValueError: a normalization cannot be synchronized.
    """
    if distributed.world_size() == 1:
        return model
    if device.type == "cuda":
        model = convert_sync_batchnorm(model)
    device_ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=device_ids)


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Replace every batch normalization by one over the images of all processes (CUDA).

    Raises:
        ValueError: a normalization with a forward pass of its own, which the conversion would drop.
    """
    known, convert = [nn.BatchNorm2d.forward], nn.SyncBatchNorm.convert_sync_batchnorm
    if timm := sys.modules.get("timm.layers"):  # torch's conversion drops the activation in timm's norms
        known.append(timm.BatchNormAct2d.forward)
        convert = timm.convert_sync_batchnorm
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and type(norm).forward not in known:
            raise ValueError(
                f"several processes: {type(norm).__name__} is a batch normalization of its own, whose"
                " statistics cannot be shared; train it in one process"
            )
    return convert(model)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of batch normalization over the processes."""
    if distributed.world_size() == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        means = distributed.all_reduce_sum(flat) / distributed.world_size()
        for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean)


@contextlib.contextmanager
def without_exchange(training: Any) -> Iterator[None]:
    """Let ``training.runner`` be the model of this process alone, with plain batch normalization."""
    runner, forward = training.runner, nn.SyncBatchNorm.forward
    training.runner = training.model
    nn.SyncBatchNorm.forward = nn.BatchNorm2d.forward  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        training.runner, nn.SyncBatchNorm.forward = runner, forward


def no_sync_until_last(runner: nn.Module, *, unless: bool) -> contextlib.AbstractContextManager[None]:
    """No exchange of gradients between processes before a batch's last part."""
    keep = getattr(runner, "no_sync", contextlib.nullcontext)
    return contextlib.nullcontext() if unless else keep()
