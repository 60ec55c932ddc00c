"""Records in memory-mapped files: the store under the teacher cache and the cache of decoded images."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import UserError
from segdistill.files import UNFINISHED, write_json
from segdistill.locks import LOCK_FILE, locked

#: Bytes that stay free on a disk for everything else that a run writes.
SPARE_BYTES = 10**9


class RecordFile:
    """Records of known length in one file, written in any order, read memory-mapped.

    ``PATH.bin`` holds the records, and ``PATH.done`` a byte for each, 1 once the record is safely on the disk. A
    process may be killed at any moment: a record that is marked is whole, and one that is not is written again.

    Args:
        path: of both files, without the suffix.
        starts: first byte of each record, and the end of the last one.
        remedy: what a user should do where the files are damaged; the end of an error message.
    """

    def __init__(self, path: Path, starts: Sequence[int], remedy: str) -> None:
        self.data = path.with_name(f"{path.name}.bin")
        self.flags = path.with_name(f"{path.name}.done")
        self.starts = starts
        self.remedy = remedy
        self._map: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def bytes(self) -> int:
        """Bytes that the file and its flags take on the disk."""
        return self.starts[-1] + len(self)

    def damage(self) -> UserError | None:
        """The error of a file that is missing or has another length than it should; None where both are right."""
        for path, length in ((self.data, self.starts[-1]), (self.flags, len(self))):
            if not path.is_file() or path.stat().st_size != length:
                return UserError(f"{path} is missing or truncated; {self.remedy}")
        return None

    def done(self) -> NDArray[np.bool_]:
        """Whether each record is there. The files must exist."""
        found: NDArray[np.bool_] = np.fromfile(self.flags, dtype=np.uint8) == 1
        return found

    def allocate(self) -> None:
        """Takes the space of both files on the disk, no record marked.

        Raises:
            OSError: if there is too little, or the folder cannot be written to.
        """
        self._map = None
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.remove(self.flags)
        for path, length in ((self.data, self.starts[-1]), (self.flags, len(self))):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if hasattr(os, "posix_fallocate") and length:
                    os.posix_fallocate(handle, 0, length)
                os.ftruncate(handle, length)
            finally:
                os.close(handle)

    def remove(self, *paths: Path) -> None:
        """Removes the given ones of its files, by default both."""
        for path in paths or (self.data, self.flags):
            path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[RecordWriter]:
        """Opens the files for writing.

        Raises:
            UserError: if they cannot be written, within the ``with`` statement too.
        """
        try:
            with (
                self.data.open("r+b", buffering=0) as data,
                self.flags.open("r+b", buffering=0) as flags,
            ):
                yield RecordWriter(self, data, flags)
        except OSError as error:
            reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or error
            raise UserError(
                f"cannot write {self.data}: {reason}; the records that it holds are kept, and the next run writes the "
                "rest"
            ) from error

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of one record, in the memory map.

        Raises:
            UserError: if the file is missing or truncated.
        """
        if self._map is None:
            try:
                self._map = np.asarray(np.memmap(self.data, np.uint8, "r", shape=(self.starts[-1],)))
            except (OSError, ValueError) as error:
                raise UserError(f"{self.data} is missing or truncated; {self.remedy}") from error
        return self._map[self.starts[index] : self.starts[index + 1]]

    def __getstate__(self) -> dict[str, Any]:
        # A memory map does not travel to a data-loading process; each process opens its own.
        return {**self.__dict__, "_map": None}


class RecordWriter:
    """Writes records of one `RecordFile`, from any number of threads."""

    def __init__(self, file: RecordFile, data: IO[bytes], flags: IO[bytes]) -> None:
        self._file, self._data, self._flags = file, data, flags
        self._lock = threading.Lock()

    def put(self, index: int, values: NDArray[np.uint8]) -> None:
        """Writes the bytes of one record, not yet marked."""
        with self._lock:
            self._data.seek(self._file.starts[index])
            left = values.data
            while left:
                left = left[self._data.write(left) :]

    def mark(self, indices: Iterable[int]) -> None:
        """Marks records as there, once they are safely on the disk, whatever kills the process or the machine."""
        _synchronise(self._data.fileno())
        for index in indices:
            self._flags.seek(index)
            self._flags.write(b"\x01")


class RecordStore:
    """What several record files share: a manifest that says what they were made for, and a lock.

    Args:
        manifest: the manifest, a JSON file; its folder need not exist yet.
        made_for: all that the records depend on, plain values by name.
        name: of the store, the beginning of error messages.
        remedy: what a user should do where the store was made for something else; the end of the message.
    """

    def __init__(self, manifest: Path, made_for: Mapping[str, Any], name: str, remedy: str) -> None:
        self.manifest = manifest
        self.made_for: dict[str, Any] = json.loads(json.dumps(made_for))  # as it is read back
        self.name = name
        self.remedy = remedy

    def check(self) -> dict[str, Any] | None:
        """The manifest's other entries; None where there is no manifest yet.

        Raises:
            UserError: if it cannot be read, or the store was made for something else.
        """
        found = read_manifest(self.manifest, self.remedy)
        if found is None:
            return None
        theirs = found.pop("made_for")
        keys = dict.fromkeys([*theirs, *self.made_for])
        other = [key for key in keys if theirs.get(key) != self.made_for.get(key)]
        if other:
            told = "; ".join(f"{key} was {theirs.get(key)!r}, now {self.made_for.get(key)!r}" for key in other)
            raise UserError(f"{self.name} was made for something else: {told}; {self.remedy}")
        return found

    def write(self, **entries: Any) -> None:
        """Writes the manifest with these entries."""
        for left in self.manifest.parent.glob(f".{self.manifest.name}*{UNFINISHED}"):  # by a kill
            left.unlink(missing_ok=True)
        write_json(self.manifest, {"made_for": self.made_for, **entries})

    def check_space(self, files: Sequence[RecordFile], remedy: str) -> None:
        """Checks that the disk has room for new files.

        Raises:
            UserError: if not.
        """
        size, free = sum(file.bytes for file in files), free_bytes(self.manifest.parent)
        if size + SPARE_BYTES > free:
            raise UserError(
                f"{self.name} needs {readable(size)} and the disk has {readable(free)} free, of which "
                f"{readable(SPARE_BYTES)} are left for the run; {remedy}"
            )

    def allocate(self, files: Sequence[RecordFile], remedy: str) -> None:
        """Takes the space of new files before the first record is written; takes none if there is too little for all.

        Raises:
            UserError: if there is too little, or the folder cannot be written to.
        """
        try:
            for file in files:
                file.allocate()
        except OSError as error:
            for file in files:
                file.remove()
            size = readable(sum(file.bytes for file in files))
            raise UserError(f"{self.name}: cannot take {size} on the disk ({error.strerror}); {remedy}") from error

    @contextmanager
    def locked(self, *, wait: bool) -> Iterator[bool]:
        """Whether this process has the store for itself within the ``with`` statement; a kill ends that too.

        The lock, and the store's folder where it is new and stays empty, are removed at the end.

        Args:
            wait: for another process that has it; otherwise the answer is False then.

        Raises:
            UserError: if the folder cannot be made.
        """
        with ExitStack() as stack:
            try:
                held = stack.enter_context(locked(self.manifest.with_name(LOCK_FILE), wait=wait))
            except OSError as error:
                raise UserError(f"cannot make {self.name}: {error.strerror}: {error.filename}") from error
            yield held


def read_manifest(file: Path, remedy: str) -> dict[str, Any] | None:
    """What a manifest holds, ``made_for`` among it; None where there is none.

    Raises:
        UserError: if it cannot be read, or is no manifest.
    """
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or not isinstance(found.get("made_for"), dict):
            raise ValueError("it is no manifest of records")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; {remedy}") from error
    return found


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def readable(size: int) -> str:
    """A number of bytes in a unit that suits it.

    Example:
        >>> readable(1_450), readable(23_000_000_000)
        ('1.45 kB', '23.00 GB')
    """
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), (1e3, "kB"))
    return f"{size / unit:.2f} {name}"


def _synchronise(handle: int) -> None:
    os.fdatasync(handle) if hasattr(os, "fdatasync") else os.fsync(handle)
