"""Locks on folders: one process at a time writes there, and whatever ends that process ends its lock."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from segdistill.errors import UserError
from segdistill.files import UNFINISHED

#: The file in a folder that is locked.
LOCK_FILE = ".lock"

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the system says of a lock that another process has."""

_FAR = 2**30

_held: set[str] = set()
"""The files that this process has locked by `alone_in`: the system would give it each a second time."""

_changing = threading.Lock()


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing, or does not exist; what a killed process leaves behind does not count."""
    return not folder.exists() or all(
        path.suffix == UNFINISHED or (path.name.startswith(".") and path.name.endswith(LOCK_FILE))
        for path in folder.iterdir()
    )


@contextmanager
def alone_in(folder: Path, name: str | None = None) -> Iterator[None]:
    """Keep other processes from writing into an output folder, or one file there, within the ``with`` statement.

    A kill ends that too: the lock is the system's, and a file that is left behind stands in nobody's way.

    Args:
        folder: the output folder; it is made where it is new, and removed again where it stays empty.
        name: of the output file, where it is not the whole folder.

    Raises:
        UserError: another process writes there, or the folder cannot be written to.
    """
    file = folder / (LOCK_FILE if name is None else f".{name}{LOCK_FILE}")
    place, what = (folder, "output folder") if name is None else (folder / name, "output")
    key = os.path.realpath(file)
    with _changing:
        if key in _held:  # to open the file once more and close it would end the lock
            raise _in_use(f"{what} {place}", f"this process ({os.getpid()})")
        _held.add(key)
    try:
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(locked(file, wait=False))
            except (FileExistsError, NotADirectoryError) as error:  # mkdir's words for it
                raise UserError(f"cannot write {place}: one of its folders is a file") from error
            except OSError as error:
                raise UserError(f"cannot write {place}: {error.strerror or error}") from error
            if not held:
                raise _in_use(f"{what} {place}", _owner(file))
            yield
    finally:
        with _changing:
            _held.discard(key)


@contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process has a file for itself within the ``with`` statement.

    The file, and its folder where that is new and stays empty, are removed at the end.

    Args:
        file: holds nothing but who has it.
        wait: for another process that has it; otherwise the answer is False then.

    Raises:
        OSError: if the folder or the file cannot be made.
    """
    new = [one for one in (file.parent, *file.parent.parents) if not one.exists()]
    opened = _opened(file)
    held = _lock(opened.fileno(), wait)
    while held and not _is_named(opened, file):  # whoever had it has removed it meanwhile
        opened.close()
        opened = _opened(file)
        held = _lock(opened.fileno(), wait)
    with opened:
        if held:
            _sign(opened.fileno())
        try:
            yield held
        finally:
            if held:
                _remove(file, new)


def _in_use(what: str, owner: str) -> UserError:
    return UserError(f"{what} is in use by {owner}; wait until it has ended, or choose another output")


def _sign(handle: int) -> None:
    """Write down who has the lock, for the message to others."""
    owner = {"process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M")}
    with contextlib.suppress(OSError):  # a full disk is reported where it costs something
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(owner).encode())


def _owner(file: Path) -> str:
    """Who has a lock, in words."""
    try:
        owner = json.loads(file.read_text())
        return f"process {owner['process']} on {owner['machine']} since {owner['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it is about to sign
        return "another process"


def _opened(file: Path) -> IO[str]:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("a")  # its owner's name stays


def _is_named(opened: IO[str], file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _remove(file: Path, new: Iterable[Path]) -> None:
    """Removes the lock that this process has, and the new folders where nothing has come into them."""
    with contextlib.suppress(OSError):  # Windows removes no open file; a folder that holds something stays
        file.unlink()
        for one in new:
            one.rmdir()


def _lock(handle: int, wait: bool) -> bool:
    """Whether this process has the open file for itself now, until it is closed."""
    if sys.platform == "win32":
        return _lock_on_windows(handle, wait)
    import fcntl

    try:
        # Not flock, which data-loading processes would inherit and hold after their parent is killed.
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in _TAKEN  # otherwise the file system has no locks
    return True


def _lock_on_windows(handle: int, wait: bool) -> bool:
    """`_lock`, on a byte far behind the end: others may not read what is locked, and read who has the lock."""
    locking: Any = importlib.import_module("msvcrt")
    while True:
        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            locking.locking(handle, locking.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in _TAKEN:  # the file system has no locks
                return True
            if not wait:
                return False
            time.sleep(0.1)
        else:
            return True
