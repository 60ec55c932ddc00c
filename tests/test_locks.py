"""One process at a time in an output folder; whatever ends it ends its lock."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import segdistill
from segdistill import locks
from segdistill.errors import UserError
from segdistill.locks import LOCK_FILE, alone_in, is_free, locked
from tests.training.runs import SCENES, STUDENT, TEACHER, distill_tiny, fingerprint, train_tiny


@contextmanager
def another_process_in(folder: Path, name: str | None = None) -> Iterator[int]:
    """A process that writes into a folder until it is killed."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_in(folder, name):
            os.write(told, b"y")
            signal.pause()
    assert os.read(ready, 1) == b"y"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_process_in(folder) as process:
        with pytest.raises(UserError, match=f"output folder {folder} is in use by process {process} on .* since 20"):
            alone_in(folder).__enter__()
        with alone_in(folder, "a.png"), alone_in(folder / "cells"):  # something else
            pass
    with alone_in(folder):  # what a kill leaves is in nobody's way
        assert is_free(folder)
    assert not list(folder.iterdir())


def test_a_lock_file_of_others_is_no_free_folder(tmp_path: Path) -> None:
    for left_behind in (".lock", ".scene.tif.lock", "model.safetensors.part"):
        (tmp_path / left_behind).touch()
    assert is_free(tmp_path)
    (tmp_path / "uv.lock").touch()
    assert not is_free(tmp_path)


def test_one_file_of_a_folder(tmp_path: Path) -> None:
    with another_process_in(tmp_path, "a.tif"), pytest.raises(UserError, match=f"output {tmp_path}/a.tif is in use by"):
        alone_in(tmp_path, "a.tif").__enter__()


def test_threads_of_one_process(tmp_path: Path) -> None:
    told: list[str] = []

    def second() -> None:
        try:
            alone_in(tmp_path / "link").__enter__()
        except UserError as error:
            told.append(str(error))

    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with alone_in(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        with another_process_refused(tmp_path / "run"):  # the second look has not ended the lock
            pass
    assert "is in use by this process" in told[0]
    with alone_in(tmp_path / "run"):
        pass


@contextmanager
def another_process_refused(folder: Path) -> Iterator[None]:
    child = os.fork()
    if child == 0:
        locks._held.clear()  # a process that was not forked has none
        try:
            alone_in(folder).__enter__()
        except UserError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    yield


def test_a_lock_that_its_owner_removes_while_we_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we have then has no name any more, and a third process would make a new one."""
    take, asked, file = locks._lock, [], tmp_path / LOCK_FILE

    def waited_for(handle: int, wait: bool) -> bool:
        if not asked:
            file.unlink()
        asked.append(handle)
        return take(handle, wait)

    monkeypatch.setattr(locks, "_lock", waited_for)
    with locked(file, wait=True) as mine:
        assert mine
        assert len(asked) == 2
        assert file.exists()


class MSVCRT(types.ModuleType):
    """Windows' own locks: a range of bytes is one handle's, and ends with it."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.taken: dict[tuple[int, int], int] = {}

    def locking(self, handle: int, mode: int, length: int) -> None:
        assert (mode, length) == (self.LK_NBLCK, 1)
        place = (os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR))
        assert place[1] > 2**20  # who has the lock stands before it, and others read that
        if place in self.taken:
            raise PermissionError(errno.EACCES, "Permission denied")
        self.taken[place] = handle


def test_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = MSVCRT()
    monkeypatch.setitem(sys.modules, "msvcrt", system)
    monkeypatch.setattr(sys, "platform", "win32")
    with alone_in(tmp_path / "run"):
        locks._held.clear()  # another process has none
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on .* since 20"):
            alone_in(tmp_path / "run").__enter__()
        monkeypatch.setattr("time.sleep", lambda _: system.taken.clear())  # the first one ends meanwhile
        with locked(tmp_path / "run" / LOCK_FILE, wait=True) as mine:
            assert mine


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*file/run: one of its folders is a file"):
        alone_in(tmp_path / "file" / "run").__enter__()


def test_runs_into_one_folder(tmp_path: Path) -> None:
    """The second run is refused and changes nothing; the folder of a killed one can be resumed and replaced."""
    folder = tmp_path / "run"
    with another_process_in(folder):
        with pytest.raises(UserError, match=f"output folder {folder} is in use by process"):
            train_tiny(folder, epochs=1)
        train_tiny(folder, epochs=1, dry_run=True)  # writes nothing
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    run = train_tiny(folder, epochs=1)  # a new run in the folder that a kill left behind
    before = fingerprint(run)
    with another_process_in(folder), pytest.raises(UserError, match="is in use by process"):
        train_tiny(folder, epochs=1, overwrite=True, seed=1)
    assert fingerprint(run) == before
    run.metrics_file.unlink()
    assert fingerprint(train_tiny(folder, epochs=1, resume=True)) == before
    assert not list(folder.glob("*.lock"))


def test_comparisons_and_label_maps_into_one_folder(tmp_path: Path) -> None:
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1).path
    recipe = {"data": SCENES, "teacher": teacher, "student": STUDENT, "train": {"epochs": 1, "workers": 0}}
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        segdistill.preview_data(SCENES, output=photos / f"{name}.png", count=1, quiet=True)
    out = tmp_path / "out"
    with another_process_in(out), another_process_in(out, "a.png"):
        for name in ("compare", "advise"):
            options = {"methods": "none,kd", "seeds": 1, "output": out, "device": "cpu", "quiet": True}
            with pytest.raises(UserError, match=f"output folder {out} is in use by"):
                getattr(segdistill, name)(**recipe, **options)
        for name in ("predict", "label"):
            with pytest.raises(UserError, match=f"output folder {out} is in use by"):
                getattr(segdistill, name)(teacher, photos, output=out, device="cpu", quiet=True)
        with pytest.raises(UserError, match=f"output {out}/a.png is in use by"):
            segdistill.predict(teacher, photos / "a.png", output=out, device="cpu", quiet=True)
        segdistill.predict(teacher, photos / "b.png", output=out, device="cpu", quiet=True)
    assert sorted(path.name for path in out.iterdir()) == [".a.png.lock", LOCK_FILE, "b.png"]
    assert len(segdistill.predict(teacher, photos, output=out, device="cpu", quiet=True)) == 2


def test_a_distillation_that_another_one_runs_into(tmp_path: Path) -> None:
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1).path
    with another_process_in(tmp_path / "run"), pytest.raises(UserError, match="run is in use by process"):
        distill_tiny(tmp_path / "run", teacher, epochs=1)
