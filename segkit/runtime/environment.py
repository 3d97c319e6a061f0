"""What libraries read from the environment as they are loaded; to be settled before torch is imported."""

from __future__ import annotations

import os

THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}  # GNU's own, about 50 us
PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # PyTorch's own; it asks Linux, which may be set to give none


def thread_env(*, training: bool) -> dict[str, str]:
    """By name, what a command that trains, or one that does not, asks for."""
    return THREADS | PAGES if training else THREADS


def set_thread_env(*, training: bool) -> None:
    """Let waiting threads spin for a moment, and a training have large pages, unless the user has chosen.

    A thread that leaves its core at once must be woken for every operation, 5 to 8 % of a training step; one
    that spins for milliseconds, as it does by itself, halves the speed as soon as something else wants one.
    Decision 6 has the figures. Other OpenMP libraries do not know the second name and leave at once.

    A tensor of 2 MiB and more on a CPU then begins on a page and asks for pages of 2 MiB, which leave fewer
    holes between what a step keeps. Where nothing is kept they cost more than they save: decision 11.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update({**THREADS, **os.environ})
    if training:
        os.environ.update({**PAGES, **os.environ})
