"""Chance that belongs to a key and to nothing else."""

from __future__ import annotations

import hashlib
import struct

import torch


def keyed_seed(*key: int) -> int:
    """A seed, 64 bits with sign, that depends on ``key`` alone; neighbouring keys give unrelated ones."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keyed_generator(*key: int) -> torch.Generator:
    """A generator whose numbers depend on ``key`` alone, in every process; the global one stays untouched.

    Neighbouring keys give unrelated numbers, since the key goes through BLAKE2.

    Example:
        >>> float(torch.rand((), generator=keyed_generator(0, 1, 2)))
        0.40822118520736694
    """
    return torch.Generator().manual_seed(keyed_seed(*key))
