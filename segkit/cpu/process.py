"""Memory and imports of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
LASTING = 2**18  # bytes of a block that is worth pages of its own, where it lives as long as the training
METHODS = {  # AdamW steps as Adam
    Optimizer: ("add_param_group", "zero_grad", "state_dict", "load_state_dict"),
    SGD: ("step",),
    Adam: ("step",),
}
_holding = False


def prepare_process() -> None:
    """Set up a process that will train, before the optimizer is built; see ``segkit.cpu``.

    Until ``hold_memory``, each large block gets pages of its own. What is made by then, momenta included,
    lives as long as the training. It would stand scattered between the tensors of a step, which come and go
    around it, and leave holes that nothing fits.
    """
    global _holding
    _holding = False
    _change(mmap_max=2**16)
    skip_compiler_import()


def hold_memory() -> None:
    """Let the C library keep freed memory for the next step; to be called at the end of every step.

    By default it returns large blocks at once and asks for new ones, pages of zeros, at every operation.
    ``release_memory`` still returns what is free.
    """
    global _holding
    if not _holding:
        _holding = True
        _change(mmap_max=0)
        release_memory()


def release_memory() -> None:
    """Return freed memory to the system, where the C library can.

    A validation leaves reference cycles (of traced networks, with their weights) and holes between what it
    allocated and what training holds; without this a process keeps half as much again as it uses.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's alone
    if trim is not None:
        trim(0)


def _change(*, mmap_max: int) -> None:
    change = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None  # glibc's alone
    if change is not None:
        change(M_MMAP_THRESHOLD, LASTING)
        change(M_MMAP_MAX, mmap_max)
        change(M_TRIM_THRESHOLD, 2**31 - 1)


def skip_compiler_import() -> None:
    """Let optimizers run without PyTorch's compiler, which their methods import only to mark graph breaks."""
    for kind, names in METHODS.items():
        for name in names:
            method = _innermost(getattr(kind, name))
            setattr(kind, name, torch.no_grad()(method) if name == "step" else method)


def _innermost(method: Any) -> Any:
    """Return what decorators were put around."""
    while (inner := getattr(method, "__wrapped__", None)) is not None:
        method = inner
    return method
