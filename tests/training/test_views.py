"""How many views a teacher cache keeps: warnings, and as many as the disk has room for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import segdistill
from segdistill import RunFolder, UserError, records
from segdistill.training.cached_teacher import warn_of_repeats
from tests.training.runs import FAST, SCENES, STUDENT, distill_tiny, fingerprint


def distil(output: Path, teacher: Path, **options: Any) -> RunFolder:
    """A run that prints."""
    settings: dict[str, Any] = {"data": SCENES, "student": STUDENT, "train": FAST, "device": "cpu"}
    return segdistill.distill(teacher=teacher, output=output, **(settings | options))


@pytest.mark.parametrize(("views", "epochs", "warned"), [(8, 60, True), (30, 60, False), (1, 2, False), (1, 3, True)])
def test_the_limit_of_the_warning(views: int, epochs: int, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """More than twice each."""
    warn_of_repeats(views, epochs, Console(width=400))
    assert bool(capsys.readouterr().out) is warned


def test_the_warning_says_what_more_views_cost(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 epochs of one view; two views of 5 images of 6 classes at 16 x 16 positions, 2 bytes each, and a flag."""
    distil(tmp_path / "run", teacher, method="kd", views=1, teacher_cache=tmp_path / "cache")
    record = (tmp_path / "cache" / "logits.view0.bin").stat().st_size // 5
    told = re.search(r"warning: (with 1 view in .*)", capsys.readouterr().out)
    assert told is not None
    size = 2 * 5 * (record + 1)
    assert "each augmented image is shown 3.0 times" in told[1]
    assert f"set views: 2, {size / 1e3:.2f} kB of teacher cache, and views: auto" in told[1]


def test_without_a_cache_there_is_no_size(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distil(tmp_path / "run", teacher, method="kd", views=1)
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: with 1 view in"))
    assert told.endswith("set views: 2")


def test_auto_takes_one_for_each_epoch(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every epoch another view, as without views: the losses of the first epoch are those of the live run."""
    run = distil(tmp_path / "run", teacher, method="kd", views="auto", teacher_cache=tmp_path / "cache")
    printed = capsys.readouterr().out
    assert "views: auto takes 3 views for 3 epochs" in printed
    assert "augmented image is shown" not in printed
    assert run.read_config()["views"] == 3
    assert len(list((tmp_path / "cache").glob("logits.view*.bin"))) == 3
    live = distill_tiny(tmp_path / "live", teacher, method="kd")
    ours, theirs = run.read_history(), live.read_history()
    for name in ("loss/task", "loss/kd"):
        assert float(ours[0][name]) == pytest.approx(float(theirs[0][name]), rel=1e-2)


def test_auto_takes_what_the_disk_has_room_for(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for two views and a half; the run with the number written out is the same, and so is a later auto."""
    distil(tmp_path / "first", teacher, method="kd", views=1, teacher_cache=tmp_path / "measure")
    one = sum(path.stat().st_size for path in (tmp_path / "measure").glob("logits.view0.*"))
    room = records.SPARE_BYTES + 5 * one // 2
    monkeypatch.setattr("segdistill.training.cached_teacher.free_bytes", lambda folder: room)
    options: dict[str, Any] = {"method": "kd", "teacher_cache": tmp_path / "cache"}
    run = distil(tmp_path / "run", teacher, views="auto", **options)
    assert "views: auto takes 2 views for 3 epochs" in capsys.readouterr().out
    assert run.read_config()["views"] == 2
    monkeypatch.setattr("segdistill.training.cached_teacher.free_bytes", lambda folder: 0)
    again = distil(tmp_path / "again", teacher, views="auto", **options)  # the cache is there
    named = distil(tmp_path / "named", teacher, views=2, **options)
    assert fingerprint(run) == fingerprint(again) == fingerprint(named)
    with pytest.raises(UserError, match=r"views: auto: the disk of .* has no room for one view of .*kB"):
        distil(tmp_path / "none", teacher, views="auto", **(options | {"teacher_cache": tmp_path / "other"}))
    assert not (tmp_path / "none").exists()


def test_auto_goes_on_with_the_number_it_found(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"method": "kd", "views": "auto", "teacher_cache": tmp_path / "cache"}
    whole = distil(tmp_path / "run", teacher, **options)
    before = fingerprint(whole)
    whole.metrics_file.unlink()
    resumed = distil(tmp_path / "run", teacher, resume=True, **options)
    assert fingerprint(resumed) == before
    assert resumed.read_config()["views"] == 3


def test_auto_needs_a_cache(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match="views: auto chooses how many views a teacher cache keeps; give teacher_cache"):
        distil(tmp_path / "run", teacher, views="auto")
    with pytest.raises(UserError, match="views"):
        distil(tmp_path / "run", teacher, views="many", teacher_cache=tmp_path / "cache")
