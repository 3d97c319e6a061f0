"""Environment variables that libraries read when they are loaded, so before torch is imported."""

from __future__ import annotations

import os

THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}  # idle threads spin about 50 us (GNU)
PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # PyTorch's: tensors of 2 MiB and more use 2 MiB pages


def set_thread_env(*, training: bool) -> None:
    """Set how long idle threads spin, and for a training 2 MiB pages, where the user has set nothing.

    Decisions 6 and 11 have the measurements.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(THREADS | dict(os.environ))
    if training:
        os.environ.update(PAGES | dict(os.environ))
