"""A hash of the files of data sets, which is equal for a copy of them elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import in_threads
from segdistill.errors import UserError
from segdistill.files import bytes_of

#: How many bytes are read of all files together, unless `SMALLEST` of each of them are more.
BUDGET = 2**30

#: How many bytes are read of each file at least.
SMALLEST = 3 * 2**12

_BLOCK = 2**20


def fingerprint(datasets: Iterable[SegmentationDataset | None], budget: int = BUDGET) -> str:
    """A hash of all samples: their names, and the names, sizes and content of their files.

    The times of files do not count, since a copy has others. Of large data sets the beginning, the middle and the end
    of each file are read, so much of each that all together are ``budget`` bytes: a compressed file ends in other bytes
    wherever it was edited, and only in a large one without compression an edit can go unseen.

    Args:
        datasets: those of a run, in their order; None for one that it does without.
        budget: see `BUDGET`.

    Raises:
        UserError: a file that is there and cannot be read.
    """
    samples: list[tuple[str, tuple[Path, ...]]] = []
    for dataset in datasets:
        if dataset is not None:
            samples += [(name, dataset.files(index)) for index, name in enumerate(dataset.ids)]
        samples.append(("\n", ()))  # the end of a split: no sample has this name
    share = max(SMALLEST, budget // max(1, sum(len(files) for _, files in samples)))

    def one(index: int) -> bytes:
        name, files = samples[index]
        return b"".join([bytes_of(f"{name}\n"), *(_hash_of(file, share) for file in files)])

    told = hashlib.blake2b(digest_size=16)
    for found in in_threads(one, len(samples), "hashing files", progress=False):
        told.update(found)
    return told.hexdigest()


def _hash_of(file: Path, share: int) -> bytes:
    """Of name, size and content of a file; of more than ``share`` bytes a third of them at each of three places."""
    digest = hashlib.blake2b(bytes_of(f"{file.name}\n"), digest_size=16)
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest.update(f"{size}\n".encode())
            part = share // 3
            for start in (0,) if size <= share else (0, (size - part) // 2, size - part):
                stream.seek(start)
                left = size if size <= share else part
                while left and (block := stream.read(min(left, _BLOCK))):
                    digest.update(block)
                    left -= len(block)
    except FileNotFoundError:  # reading says so where the file is needed
        digest.update(b"is not there\n")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.digest()
