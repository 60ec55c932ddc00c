"""Decoded images on disk: made once, made again where they are lost, refused for other data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segdistill import records
from segdistill.datasets.reading import decoded_cache as module
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.errors import UserError
from segdistill.recipe.data import build_data, keep_decoded
from tests.datasets.reading.keeping import counting, keep, silent, tree, values
from tests.datasets.trees import index_mask, write_image, write_mask

REPOSITORY = Path(__file__).parents[2]


def told(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_size_is_said_first_and_only_when_something_is_to_be_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "data")
    folder = tmp_path / "kept"
    keep(root, folder, Console(width=200))
    said = told(capfd)
    assert f"keeping 7 decoded images in {folder}/train.bin: 6.62 kB in all (" in said
    assert f"keeping 2 decoded images in {folder}/val.bin" in said
    # 5 of 12 x 16, one of 7 x 9 and one of 30 x 21 pixels, 4 bytes each, at multiples of 8 bytes.
    assert (folder / "train.bin").stat().st_size == 4 * (5 * 12 * 16 + 30 * 21) + (4 * 7 * 9 + 4)
    decoded = counting(monkeypatch)
    keep(root, folder, Console(width=200))
    assert told(capfd) == ""
    assert [path.name for path in decoded] == ["train0.png", "val0.png"]  # whether images are of uint8


def test_an_error_keeps_what_was_done_and_a_mended_file_is_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "data")
    folder = tmp_path / "kept"
    broken = root / "images" / "train" / "train3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    monkeypatch.setattr(module, "_CHUNK", 2)
    assert "train3.png cannot be read, it is truncated or no image" in keep_error(root, folder)
    assert np.fromfile(folder / "train.done", np.uint8).tolist() == [1, 1, 0, 0, 0, 0, 0]
    broken.write_bytes(whole)
    assert "the hash of its files was" in keep_error(root, folder)


def test_what_was_read_by_other_rules_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "data")
    keep(root, tmp_path / "kept")
    monkeypatch.setattr(module, "READING", "another")
    assert "the rules by which files are read was '4', now 'another'" in keep_error(root, tmp_path / "kept")


def keep_error(root: Path, folder: Path, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        keep(root, folder, **more)
    return str(error.value)


def test_only_what_is_missing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "data")
    folder = tmp_path / "kept"
    keep(root, folder)
    marks = np.fromfile(folder / "train.done", np.uint8)
    marks[[1, 4]] = 0
    marks.tofile(folder / "train.done")
    decoded = counting(monkeypatch)
    data = keep(root, folder)
    assert sorted(path.name for path in decoded[1:-1]) == ["train1.png", "train4.png"]
    plain = build_data(values(root)).train
    assert all(one.equal(other) for i in range(7) for one, other in zip(plain[i], data.train[i], strict=True))


@pytest.mark.parametrize("lost", ["train.bin", "train.done", "train.json"])
def test_what_is_lost_is_made_again(tmp_path: Path, lost: str) -> None:
    root = tree(tmp_path / "data")
    folder = tmp_path / "kept"
    keep(root, folder)
    (folder / lost).unlink()
    data, plain = keep(root, folder), build_data(values(root))
    assert all(one.equal(other) for i in range(7) for one, other in zip(plain.train[i], data.train[i], strict=True))


def test_a_truncated_file_is_made_again(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    folder = tmp_path / "kept"
    keep(root, folder)
    os.truncate(folder / "train.bin", 1000)
    data, plain = keep(root, folder), build_data(values(root))
    assert all(one.equal(other) for i in range(7) for one, other in zip(plain.train[i], data.train[i], strict=True))


@pytest.mark.slow
def test_a_killed_process_costs_a_chunk(tmp_path: Path) -> None:
    """SIGKILL while the third chunk is decoded; the next run decodes the rest and has what an unbroken one has."""
    root = tree(tmp_path / "data")
    program = f"""
import os, signal
from pathlib import Path
from rich.console import Console
from segdistill.datasets.reading import decoded_cache as kept
from segdistill.recipe.data import build_data, keep_decoded
kept._CHUNK = 2
record = kept.DecodedCache._record
def dying(self, index):
    if index == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return record(self, index)
kept.DecodedCache._record = dying
keep_decoded(build_data({values(root, decoded_cache=str(tmp_path / "kept"))!r}), Console(quiet=True))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    assert np.fromfile(tmp_path / "kept" / "train.done", np.uint8).tolist() == [1, 1, 1, 1, 0, 0, 0]
    data, plain = keep(root, tmp_path / "kept"), build_data(values(root))
    assert all(one.equal(other) for i in range(7) for one, other in zip(plain.train[i], data.train[i], strict=True))


def test_processes_fill_one_file_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two begins in the middle, and leaves out what the first one has marked in the meantime."""
    root = tree(tmp_path / "data")
    monkeypatch.setattr(module, "_CHUNK", 1)
    monkeypatch.setattr(module, "_threads", lambda: 1)
    order: list[int] = []
    record = DecodedCache._record

    def noted(self: DecodedCache, index: int) -> Any:
        order.append(index)
        if len(order) == 2 and len(self) == 7:
            marks = np.fromfile(tmp_path / "kept" / "train.done", np.uint8)
            marks[0] = 1
            marks.tofile(tmp_path / "kept" / "train.done")
        return record(self, index)

    monkeypatch.setattr(DecodedCache, "_record", noted)
    data = build_data(values(root, decoded_cache=str(tmp_path / "kept")))
    keep_decoded(data, silent(), rank=1, world=2)
    assert order == [3, 4, 5, 6, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("more", "change"),
    [
        ({"resize": [6, 8]}, "resize was None, now [6, 8]"),
        ({"ignore": 2}, "ignore was 255, now 2"),
        ({"classes": ["a", "b", "d"]}, "classes was ['a', 'b', 'c'], now ['a', 'b', 'd']"),
        ({"palette": ["#ff0000", "#00ff00", "#0000ff"]}, "palette was None, now ["),
    ],
)
def test_other_data_is_refused(tmp_path: Path, more: dict[str, Any], change: str) -> None:
    root = tree(tmp_path / "data")
    keep(root, tmp_path / "kept")
    told = keep_error(root, tmp_path / "kept", **more)
    assert told.startswith(f"decoded_cache {tmp_path}/kept/train.bin was made for something else: ")
    assert change in told
    keep(root, tmp_path / "kept", ignore=255, crop=[8, 8], jitter=0.3)  # a default written out; another augmentation


def test_changed_added_and_moved_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    keep(root, tmp_path / "kept")
    shutil.move(root, tmp_path / "elsewhere")
    root = tmp_path / "elsewhere"
    keep(root, tmp_path / "kept")  # the same files, with their times
    write_image(root / "images/train/train0.png", seed=99)
    assert "the hash of its files was" in keep_error(root, tmp_path / "kept")
    write_image(root / "images/train/z.png")
    write_mask(root / "masks/train/z.png", index_mask(3))
    assert "images was 7, now 8" in keep_error(root, tmp_path / "kept")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    keep(root, tmp_path / "kept")
    (tmp_path / "kept" / "train.json").write_text("{")
    assert "cannot read" in keep_error(root, tmp_path / "kept")
    (tmp_path / "kept" / "train.json").write_text("[]")
    assert "train.json" in keep_error(root, tmp_path / "kept")


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "data")
    monkeypatch.setattr(module, "_shared_memory", lambda: 1000)
    assert "decoded_cache: ram needs 0.00 GB and there are 0.00 GB of memory" in keep_error(root, "ram")  # type: ignore[arg-type]
    monkeypatch.setattr(records, "SPARE_BYTES", 10**18)
    assert "are left for the run; choose another folder" in keep_error(root, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(records, "SPARE_BYTES", 0)
    assert "cannot make decoded_cache" in keep_error(root, tmp_path / "file")
