"""Memory and imports of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
LARGE_BLOCK = 2**18  # bytes from which a block gets pages that it shares with no other block
METHODS = {  # AdamW inherits from Adam
    Optimizer: ("add_param_group", "zero_grad", "state_dict", "load_state_dict"),
    SGD: ("step",),
    Adam: ("step",),
}
_is_holding = False


def prepare_process() -> None:
    """Configure malloc and optimizers for training on a CPU; to be called before the optimizer is built.

    Until ``hold_memory``, each large block gets its own pages. Blocks allocated by then, such as momenta,
    live as long as the training. Between the tensors of a step, which come and go, they would fragment the
    heap.
    """
    global _is_holding
    _is_holding = False
    _configure_malloc(max_mmaps=2**16)
    skip_compiler_import()


def hold_memory() -> None:
    """Let the C library reuse freed memory in the next step; to be called at the end of every step.

    By default it returns large blocks at once and requests new ones, pages of zeros, at every operation.
    ``release_memory`` still returns what is free.
    """
    global _is_holding
    if not _is_holding:
        _is_holding = True
        _configure_malloc(max_mmaps=0)
        release_memory()


def release_memory() -> None:
    """Return freed memory to the system, if the C library is glibc.

    A validation leaves reference cycles (traced networks with their weights) and fragmented memory; without
    this a process occupies half as much again as it uses.
    """
    gc.collect()
    trim = _find_glibc_function("malloc_trim")
    if trim is not None:
        trim(0)


def _configure_malloc(*, max_mmaps: int) -> None:
    configure = _find_glibc_function("mallopt")
    if configure is not None:
        configure(M_MMAP_THRESHOLD, LARGE_BLOCK)
        configure(M_MMAP_MAX, max_mmaps)
        configure(M_TRIM_THRESHOLD, 2**31 - 1)


def _find_glibc_function(name: str) -> Any:
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None), name, None)


def skip_compiler_import() -> None:
    """Patch Adam and SGD for the whole process, so that their methods do not import PyTorch's compiler."""
    for optimizer, names in METHODS.items():
        for name in names:
            method = inspect.unwrap(getattr(optimizer, name))
            if name == "step":
                method = torch.no_grad()(method)
            setattr(optimizer, name, method)
