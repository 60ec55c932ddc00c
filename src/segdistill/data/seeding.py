"""Chance that belongs to a key and to nothing else."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, the global random states of Python, NumPy and torch begin with ``seed``; afterwards they are as before.

    Args:
        seed: 0 to 2**32 - 1.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
