"""Randomness belongs to what it is drawn for: a seed is a function of the numbers that name the draw."""

from __future__ import annotations

import hashlib


def seed_of(*numbers: int) -> int:
    """A 63-bit seed, the same on every machine, different for different numbers in all likelihood."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
