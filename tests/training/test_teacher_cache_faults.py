"""A teacher cache whose run was killed, and one on a full disk."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from segdistill import UserError, records
from segdistill.methods import KD, METHODS
from segdistill.training.teacher_cache import TeacherCache
from tests.training.filling import Filling, count_done, same_records
from tests.training.test_resume import Killed


def fill_slowly(folder: Path) -> None:
    """What each process does until it is killed."""
    write = TeacherCache._write

    def slow(self: TeacherCache, *arguments: Any) -> None:
        time.sleep(0.004)
        write(self, *arguments)

    TeacherCache._write = slow  # type: ignore[method-assign]
    torch.set_num_threads(1)
    Filling(folder, [METHODS["brd"]()], images=16).fill(batch_size=1)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, again and again; meanwhile no other run may fill it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance, kills, codes = random.Random(0), 0, []
    while not codes or codes[-1] != 0:
        before = count_done(tmp_path / "cache")
        process = context.Process(target=fill_slowly, args=(tmp_path / "cache",))
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and count_done(tmp_path / "cache") == before and time.monotonic() < deadline:
            time.sleep(0.002)
        if kills == 1:
            other = Filling(tmp_path / "cache", [METHODS["brd"]()], images=16)
            with pytest.raises(UserError, match=r"another run is filling the teacher cache .*; start this one when"):
                other.fill()
        if kills < 4:
            time.sleep(chance.uniform(0, 0.15))
            process.kill()
        process.join(timeout=60)
        codes.append(process.exitcode)
        kills += 1
        assert codes[-1] in (0, -signal.SIGKILL)
    assert codes.count(-signal.SIGKILL) >= 2
    Filling(tmp_path / "whole", [METHODS["brd"]()], images=16).fill()
    assert same_records(tmp_path / "cache", tmp_path / "whole")
    assert all(set(path.read_bytes()) == {1} for path in (tmp_path / "cache").glob("*.done"))


def test_killed_at_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each manifest that comes into its place, each space that is taken, each record that is made safe."""
    whole = tmp_path / "whole"
    Filling(whole, [METHODS["ka"](), KD()], images=2).fill()
    count = 0

    def dying(call: Callable[..., Any], at: int) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                (tmp_path / f"cache{at}" / ".manifest.json-half.part").write_text("half of one")
                raise Killed
            return call(*arguments)

        return counted

    for at in range(1, 100):
        folder, count = tmp_path / f"cache{at}", 0
        with monkeypatch.context() as patch:
            for name in ("replace", "posix_fallocate", "fdatasync"):
                patch.setattr(os, name, dying(getattr(os, name), at))
            try:
                Filling(folder, [METHODS["ka"](), KD()], images=2).fill()
            except Killed:
                pass
            else:
                break
        Filling(folder, [METHODS["ka"](), KD()], images=2).fill()
        assert same_records(folder, whole), at
    assert (
        at == 2 + 2 * 2 * 2 + 2 * 2 + 1
    )  # manifests; files of teacher_outputs and views, with flags; batches of teacher_outputs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)


def large(folder: Path) -> Filling:
    """A cache of about 77 kB: 100 images x 1 view x (16 x 4 x 5 numbers of 2 bytes, and 6 x 4 x 5 of the logits)."""
    return Filling(folder, [METHODS["ka"](), KD()], images=100, views=1)


def test_refused_before_a_byte_is_written(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"needs 88\.20 kB and the disk has 6\d\.\d+ kB free, of which 1\.00 GB are left for the run; choose another"
    with pytest.raises(UserError, match=told):
        large(small_disk / "cache").fill()
    assert not (small_disk / "cache").exists()
    monkeypatch.setattr(records, "SPARE_BYTES", 0)
    enlarge(small_disk)
    large(small_disk / "cache").fill()


def test_space_that_is_gone_meanwhile(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More was free when it was asked: what was taken is given back, and the folder serves again."""
    monkeypatch.setattr(records, "SPARE_BYTES", -(10**6))
    with pytest.raises(
        UserError, match=r"cannot take 88\.20 kB on the disk \(No space left on device\); choose another folder"
    ):
        large(small_disk / "cache").fill()
    assert {path.name for path in (small_disk / "cache").iterdir()} == {"manifest.json"}
    assert TeacherCache.known_teacher(small_disk / "cache") is not None
    enlarge(small_disk)
    large(small_disk / "cache").fill()


def test_full_while_filling(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where space cannot be taken in advance: what is there is kept and filled on."""
    monkeypatch.setattr(records, "SPARE_BYTES", -(10**6))
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(UserError, match="no space left on the disk; the records that it holds are kept"):
        large(small_disk / "cache").fill()
    done = count_done(small_disk / "cache")
    assert 0 < done < 200
    enlarge(small_disk)
    filling = large(small_disk / "cache")
    assert 0 < len(filling.cache.want(filling.names)) <= 200 - done
    lines = Console(file=io.StringIO(), width=200)
    filling.fill(console=lines)
    assert "views are missing" in lines.file.getvalue()  # type: ignore[attr-defined]
    large(tmp_path / "whole").fill()
    assert same_records(small_disk / "cache", tmp_path / "whole")


def test_files_may_not_grow(tmp_path: Path) -> None:
    """The limit on a file's size stands in for a full disk, as root or not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    filling = large(tmp_path / "cache")
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot take 88\.20 kB on the disk \(File too large\)"):
            filling.fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"manifest.json"}
    filling.fill()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(UserError, match=r"cannot make teacher cache .*notes/cache: Not a directory"):
        Filling(tmp_path / "notes" / "cache", [KD()]).fill()
