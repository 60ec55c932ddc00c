"""Faults made to order: a disk that takes no more, a run that is killed, files that are spoilt."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segdistill.training.callbacks.checkpoints import Checkpoints
from segdistill.training.loop import Loop


class Killed(BaseException):
    """Ends a run like a kill would: nothing catches it."""


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: writing more fails like on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip_a_bit(path: Path) -> None:
    """In the middle of the file, among the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def kill_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Lets runs die right after that epoch's checkpoint, counted from 1."""
    save = Checkpoints.save

    def dying(self: Checkpoints, loop: Loop) -> None:
        save(self, loop)
        if (loop.epoch, loop.batch) == (epoch, 0):
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", dying)
