"""Seeds of random numbers, as functions of what the numbers are for (seed, epoch, sample, ...)."""

from __future__ import annotations

import hashlib


def seed_of(*numbers: int) -> int:
    """Return a 63-bit seed, the same on every machine and practically unique to the numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
