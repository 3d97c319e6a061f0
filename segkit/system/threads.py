"""How OpenMP's threads wait for each other between two operations; to be settled before torch is imported."""

from __future__ import annotations

import os

BRIEFLY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}  # GNU's own, about 50 us


def spin_briefly() -> None:
    """Let a waiting thread look for work for a moment, then leave its core, unless the user has chosen.

    A thread that leaves at once must be woken for every operation, 5 to 8 % of a training step; one that
    spins for milliseconds, as it does by itself, halves the speed as soon as something else wants a core.
    Decision 6 has the figures. Other OpenMP libraries do not know the second name and leave at once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update({**BRIEFLY, **os.environ})
