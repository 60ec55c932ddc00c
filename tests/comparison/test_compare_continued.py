"""A comparison goes on after a kill, a stop and a failed run."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import RunFolder, UserError
from segdistill.comparison import cells
from segdistill.comparison import compare as module
from segdistill.comparison.reading import load_comparison
from segdistill.training.callbacks.stop_signals import Stopped
from tests.comparison.tiny import cell, compare_tiny, row
from tests.training.runs import FAST, contents, fingerprint

pytestmark = pytest.mark.usefixtures("short_report")


def test_finished_cells_are_never_done_again(copy: Path, teacher: Path) -> None:
    before = {method: contents(cell(copy, method, seed)) for method in ("none", "kd") for seed in (0, 1)}
    found = compare_tiny(copy, teacher, methods="none,kd,cwd", seeds=3)
    assert {method: contents(cell(copy, method, seed)) for method in ("none", "kd") for seed in (0, 1)} == before
    assert [len(one.finished) for one in found.rows] == [3, 3, 3]


def test_the_command_makes_it_again(finished: Path, tmp_path: Path, teacher: Path) -> None:
    import shlex

    from segdistill.cli.main import main

    argv = shlex.split(load_comparison(finished).command)
    assert argv[:2] == ["segdistill", "compare"]
    argv[argv.index("--output") + 1] = str(tmp_path / "again")
    assert main([*argv[1:], "--device", "cpu", "--quiet"]) == 0
    assert fingerprint(cell(tmp_path / "again", "kd", 1)) == fingerprint(cell(finished, "kd", 1))


def long_comparison(output: Path, teacher: Path) -> None:
    compare_tiny(output, teacher, methods="none,kd,brd", seeds=2, train=replace(FAST, epochs=10))


def killed_comparison(output: Path, teacher: Path) -> None:
    """What a process does until it is killed."""
    module.__dict__["load_comparison"] = lambda folder: time.sleep(600)  # it shall be killed, not end
    long_comparison(output, teacher)


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path: Path, teacher: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "segdistill.training.run", "torch.utils.tensorboard"])
    output = tmp_path / "out"
    process = context.Process(target=killed_comparison, args=(output, teacher))
    process.start()
    # In the middle of the second cell, the first being finished.
    deadline = time.monotonic() + 200
    while not (cell(output, "kd") / "history.csv").exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    half = load_comparison(output)
    assert not half.finished
    assert [len(one.finished) for one in half.rows] == [1, 0, 0]
    first = contents(cell(output, "none"))
    begun = (cell(output, "kd") / "history.csv").read_text().count("\n") - 1
    assert 1 <= begun < 10

    long_comparison(output, teacher)
    long_comparison(tmp_path / "whole", teacher)
    assert contents(cell(output, "none")) == first
    for method in ("none", "kd", "brd"):
        for seed in (0, 1):
            assert fingerprint(cell(output, method, seed)) == fingerprint(cell(tmp_path / "whole", method, seed))


def test_a_stopped_cell_stops_the_comparison(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped(signal.SIGINT, "epoch 1")

    monkeypatch.setattr(cells, "run_distillation", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare_tiny(tmp_path / "out", teacher)
    assert load_comparison(tmp_path / "out").finished is False
    assert not list((tmp_path / "out").glob("cells/*/*.error.txt"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("the loss became NaN"), "the loss became NaN"),
        pytest.param(ZeroDivisionError("float\ndivision"), "ZeroDivisionError: float division", marks=pytest.mark.slow),
    ],
)
def test_a_failed_cell_is_listed(
    tmp_path: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    real = cells.run_distillation

    def failing(recipe: Any, options: Any) -> RunFolder:
        if recipe.seed == 0 and "kd" in recipe.method[0]:
            raise error
        return real(recipe, options)

    monkeypatch.setattr(cells, "run_distillation", failing)
    found = compare_tiny(tmp_path / "out", teacher, methods="none,kd,cwd", seeds=2, quiet=False)
    assert f"kd, seed 0 failed: {told}" in capsys.readouterr().out
    assert [one.status for one in row(found, "kd").cells] == ["failed", "finished"]
    assert row(found, "kd").cells[0].error == told
    assert len(row(found, "cwd").finished) == 2
    assert "1 run failed; what follows is about the others." in found.verdict
    assert f"kd failed with seed 0: {told}" in found.warnings
    monkeypatch.setattr(cells, "run_distillation", real)
    found = compare_tiny(tmp_path / "out", teacher, methods="none,kd,cwd", seeds=2)
    assert found.finished
    assert not any("failed" in text for text in (*found.warnings, found.verdict))


def test_a_finished_comparison_that_cannot_be_written_to_is_shown(
    copy: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a read-only disk not even a lock can be made; with more seeds there is something to write."""
    monkeypatch.setattr("segdistill.comparison.compare.os.access", lambda path, mode: path != copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    found = compare_tiny(copy, teacher, seeds=2, resume=True, quiet=False)
    told = " ".join(capsys.readouterr().out.split())  # it wraps lines
    assert f"{copy} cannot be written to, and all of its runs are finished" in told
    assert found.verdict in told
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before

    def refuse(*given: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("segdistill.comparison.compare.alone_in", refuse)
    with pytest.raises(PermissionError, match="read-only"):
        compare_tiny(copy, teacher, seeds=3, resume=True)
