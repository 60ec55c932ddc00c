"""Records on disk: what is marked is there, whatever was killed, full, truncated or made for something else."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill import UserError, records
from segdistill.records import RecordFile, RecordStore, free_bytes, read_manifest
from tests.training.faults import disk_with_room_for

STARTS = (0, 8, 8, 24, 30)  # the second record is empty
REMEDY = "remove it"


def values(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.arange(STARTS[index], STARTS[index + 1], dtype=np.uint8) + 1


def filled(path: Path, *indices: int) -> RecordFile:
    file = RecordFile(path, STARTS, REMEDY)
    file.allocate()
    with file.writing() as writer:
        for index in indices:
            writer.put(index, values(index))
        writer.mark(indices)
    return file


def test_records_come_back_in_any_order(tmp_path: Path) -> None:
    file = filled(tmp_path / "r", 3, 0)
    assert file.done().tolist() == [True, False, False, True]
    with file.writing() as writer:
        writer.put(2, values(2))
        writer.put(1, values(1))
        writer.mark([1, 2])
    assert file.done().all()
    assert all(file.read(index).tolist() == values(index).tolist() for index in range(len(file)))
    assert file.bytes == 30 + 4 == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_what_is_put_and_not_marked_is_not_there(tmp_path: Path) -> None:
    file = filled(tmp_path / "r", 0)
    with file.writing() as writer:
        writer.put(3, values(3))
    assert file.done().tolist() == [True, False, False, False]


def test_a_mark_follows_the_data_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = filled(tmp_path / "r", 0)
    seen: list[list[bool]] = []
    monkeypatch.setattr(records, "_synchronise", lambda handle: seen.append(file.done().tolist()))
    with file.writing() as writer:
        writer.put(2, values(2))
        writer.mark([2])
    assert seen == [[True, False, False, False]]
    assert file.done()[2]


@pytest.mark.parametrize("suffix", ["bin", "done"])
@pytest.mark.parametrize("keep", [0, 3, None])
def test_damage_is_named(tmp_path: Path, suffix: str, keep: int | None) -> None:
    file = filled(tmp_path / "r", 0)
    assert file.damage() is None
    broken = tmp_path / f"r.{suffix}"
    if keep is None:
        broken.unlink()
    else:
        os.truncate(broken, keep)
    assert str(file.damage()) == f"{broken} is missing or truncated; remove it"


def test_reading_what_was_truncated_since(tmp_path: Path) -> None:
    file = filled(tmp_path / "r", 0)
    os.truncate(file.data, 0)
    with pytest.raises(UserError, match=r"r\.bin is missing or truncated; remove it"):
        file.read(0)


def test_allocated_anew_nothing_is_marked(tmp_path: Path) -> None:
    file = filled(tmp_path / "r", 0, 1, 2, 3)
    file.allocate()
    assert not file.done().any()


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where space cannot be taken in advance: what was marked stays, and the rest can be written later."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    file = filled(tmp_path / "r", 0)

    def write() -> None:
        with disk_with_room_for(10), file.writing() as writer:
            writer.put(2, values(2))
            writer.mark([2])

    with pytest.raises(UserError, match=r"cannot write .*r\.bin: File too large; the records"):
        write()
    assert file.done().tolist() == [True, False, False, False]
    assert file.read(0).tolist() == values(0).tolist()


def store_in(folder: Path, **made_for: Any) -> RecordStore:
    return RecordStore(folder / "manifest.json", made_for, "the store", "use another one")


def test_made_for_something_else(tmp_path: Path) -> None:
    store = store_in(tmp_path, crop=(3, 4), seed=0)
    assert store.check() is None
    store.write(held=["a"])
    assert store.check() == {"held": ["a"]}
    told = r"^the store was made for something else: seed was 0, now 1; views was None, now 2; use another one$"
    with pytest.raises(UserError, match=told):
        store_in(tmp_path, crop=[3, 4], seed=1, views=2).check()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"made_for": 3}', "\x00\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json: .*; remove it"):
        read_manifest(tmp_path / "manifest.json", REMEDY)


def test_too_little_space_is_told_before_anything_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, store = RecordFile(tmp_path / "r", range(0, 101_000, 1000), REMEDY), store_in(tmp_path)
    monkeypatch.setattr(records, "free_bytes", lambda folder: records.SPARE_BYTES + 100_099)
    with pytest.raises(UserError, match=r"the store needs 100\.10 kB and the disk has 1\.00 GB free.*; choose fewer"):
        store.check_space([file], "choose fewer")
    monkeypatch.setattr(records, "free_bytes", lambda folder: records.SPARE_BYTES + 100_100)
    store.check_space([file], "choose fewer")
    assert not list(tmp_path.iterdir())
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_space_for_all_files_or_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [RecordFile(tmp_path / name, STARTS, REMEDY) for name in "ab"]
    taken: list[int] = []

    def refuse(handle: int, start: int, length: int) -> None:
        taken.append(length)
        if len(taken) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"the store: cannot take 0\.07 kB on the disk \(No space left on device\)"):
        store_in(tmp_path).allocate(files, "choose fewer")
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time_and_a_kill_lets_go(tmp_path: Path) -> None:
    """Another process holds the lock; as soon as it is killed, it is ours."""
    store = store_in(tmp_path)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with store.locked(wait=False) as mine:
            os.write(told, b"y" if mine else b"n")
            signal.pause()
    try:
        assert os.read(ready, 1) == b"y"
        with store.locked(wait=False) as mine:
            assert not mine
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with store.locked(wait=False) as mine:
        assert mine


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in ("there", "new", "new/inner"):
        with store_in(tmp_path / folder).locked(wait=True) as mine:
            assert mine
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with store_in(tmp_path / "new" / "inner").locked(wait=True):
        (tmp_path / "new" / "record").write_text("kept")
    assert [path.name for path in tmp_path.joinpath("new").iterdir()] == ["record"]
