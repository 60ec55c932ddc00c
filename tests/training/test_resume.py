"""A run that was stopped, at whatever moment, goes on to what it would have become."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segdistill
from segdistill import RunFolder, UserError
from segdistill.methods import KA
from segdistill.training.step import Step, Terms
from tests.datasets.trees import folder_tree, write_mask
from tests.training import faults
from tests.training.faults import kill_after
from tests.training.runs import SCENES, TEACHER, contents, distill_tiny, fingerprint, train_tiny


class Killed(BaseException):
    """Ends a run like a kill would: nothing catches it."""


def stop_in(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> None:
    """Lets the next run, of two steps an epoch, die in that step."""
    step = Step.__call__

    def dying(self: Step, batches: Any) -> list[Terms]:
        if self.number == 2 * epoch + batch:
            raise Killed
        return step(self, batches)

    monkeypatch.setattr(Step, "__call__", dying)


def history_without_times(run: RunFolder) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.read_history()]


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("method", ["kd", ["ka", "brd"], ["cirkd", "idd", "maskd", "mgd", {"rdd": {"warmup": 3}}]])
def test_resumed_run_equals_unbroken_run(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, method: Any, batch: int
) -> None:
    """The student has dropout; methods bring pre-stages, adapters, memories, draws and counters of their own."""
    whole = distill_tiny(tmp_path / "whole", teacher, method=method)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, batch=batch)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", teacher, method=method)
    half = fingerprint(tmp_path / "broken")
    prepared: list[KA] = []
    monkeypatch.setattr(KA, "prepare", lambda self, batches: prepared.append(self))
    resumed = distill_tiny(tmp_path / "broken", teacher, method=method, resume=True)
    assert not prepared  # the pre-stage is not run again
    assert half != fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)
    first, second = resumed.read_metrics(), whole.read_metrics()
    assert first is not None
    assert second is not None
    assert first | {"training_seconds": 0} == second | {"training_seconds": 0}


@pytest.mark.parametrize("write", [1, 2, 4, 5, 6, 9, 10])
def test_killed_before_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    """Whichever file the kill kept from its place, --resume brings the run to the same end."""
    whole = train_tiny(tmp_path / "whole", epochs=2)
    replace, count = os.replace, 0

    def counting(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == write:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counting)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "broken", epochs=2)
    resumed = train_tiny(tmp_path / "broken", epochs=2, resume=True)
    assert fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)


@pytest.mark.slow
def test_killed_for_real(tmp_path: Path) -> None:
    """kill -9 after the first epoch, at no particular moment; what it left half-written is cleared away."""
    script = (
        "from pathlib import Path; from tests.training.runs import train_tiny; "
        f"train_tiny(Path({str(tmp_path / 'run')!r}), epochs=12)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert RunFolder(tmp_path / "run").read_metrics() is None
    (tmp_path / "run" / ".config.yaml-abcd.part").write_text("half")
    (tmp_path / "run" / "checkpoints" / ".last.ckpt-abcd.part").write_text("half")
    (tmp_path / "run" / ".saving-abcd").mkdir()
    resumed = train_tiny(tmp_path / "run", epochs=12, resume=True)
    whole = train_tiny(tmp_path / "whole", epochs=12)
    assert fingerprint(resumed) == fingerprint(whole)
    assert not [name for name in contents(resumed.path) if Path(name).name.startswith(".")]
    assert not list(resumed.path.glob(".*"))


def test_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    before = contents(run.path)
    train_tiny(tmp_path / "run", epochs=1, resume=True)
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 0.5}, "train.lr was 0.003, now 0.5"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"data": SCENES | {"count": 4}}, "data.count was 5, now 4"),
        ({"data": SCENES | {"flip": False}}, "data.flip was None, now False"),
        ({"epochs": 2, "optimizer": "sgd"}, "train.epochs was 1, now 2; train.optimizer was 'adamw', now 'sgd'"),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    before = contents(run.path)
    with pytest.raises(UserError) as error:
        train_tiny(tmp_path / "run", resume=True, **({"epochs": 1} | change))
    assert f"cannot resume {run.path} with another recipe: {told};" in str(error.value)
    assert contents(run.path) == before


@pytest.mark.parametrize("change", [False, True])
def test_images_that_have_changed_since_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: bool
) -> None:
    """Not refused: a broken image may have been mended, and days of training stand behind it."""
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 1})
    data = {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"]}
    with monkeypatch.context() as patch:
        kill_after(patch, epoch=1)
        with pytest.raises(faults.Killed):
            train_tiny(tmp_path / "run", data=data, epochs=2)
    if change:
        write_mask(root / "masks" / "train" / "train1.png", np.ones((12, 16), np.uint8))
    capsys.readouterr()
    segdistill.train(resume=tmp_path / "run", device="cpu")
    told = f"warning: images or masks of the data have changed since {tmp_path / 'run'} was begun"
    assert (told in capsys.readouterr().out) == change


@pytest.mark.parametrize("change", [False, True])
def test_a_teacher_that_has_changed_since_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: bool
) -> None:
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1)
    with monkeypatch.context() as patch:
        kill_after(patch, epoch=1)
        with pytest.raises(faults.Killed):
            distill_tiny(tmp_path / "run", teacher.path, method="kd", epochs=2)
    if change:
        train_tiny(tmp_path / "teacher", TEACHER, epochs=1, seed=1, overwrite=True)
    capsys.readouterr()
    segdistill.distill(resume=tmp_path / "run", device="cpu")
    told = f"warning: weights of the teacher have changed since {tmp_path / 'run'} was begun"
    assert (told in capsys.readouterr().out) == change


def test_without_a_checkpoint_it_starts_over(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    whole = fingerprint(run)
    shutil.rmtree(run.path / "checkpoints")
    run.metrics_file.unlink()
    assert fingerprint(train_tiny(tmp_path / "run", epochs=1, resume=True)) == whole
    assert len(run.read_history()) == 1
    assert fingerprint(train_tiny(tmp_path / "new", epochs=1, resume=True)) == whole


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_damaged_checkpoint_is_named(tmp_path: Path, kept: float) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)
    run.metrics_file.unlink()
    network = fingerprint(run)
    whole = run.checkpoint_file.read_bytes()
    run.checkpoint_file.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match=r"checkpoint \S*last.ckpt is damaged"):
        train_tiny(tmp_path / "run", epochs=1, resume=True)
    assert fingerprint(run) == network


def test_overwrite_leaves_nothing_of_the_old_run(tmp_path: Path, teacher: Path) -> None:
    train_tiny(tmp_path / "run", epochs=3)
    (tmp_path / "run" / "evaluation-test.json").write_text("{}")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "exports").mkdir()
    (tmp_path / "run" / "exports" / "model.onnx").write_text("of the old network")
    again = train_tiny(tmp_path / "run", epochs=1, overwrite=True, lr=1e-4)
    fresh = train_tiny(tmp_path / "fresh", epochs=1, lr=1e-4)
    assert fingerprint(again) == fingerprint(fresh)
    assert len(again.read_history()) == 1
    assert (again.path / "notes.txt").read_text() == "mine"
    names = {name for name in contents(again.path) if "events" not in name}
    assert names == {name for name in contents(fresh.path) if "events" not in name} | {"notes.txt"}


def test_killed_while_overwriting_can_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_tiny(tmp_path / "run", epochs=1)

    def killed(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "run", epochs=2, overwrite=True)
    assert run.read_metrics() is None  # it no longer passes for a finished run
    train_tiny(tmp_path / "run", epochs=2, overwrite=True)


def test_source_in_the_output_folder_is_refused(tmp_path: Path, teacher: Path) -> None:
    before = contents(teacher)
    with pytest.raises(UserError, match=r"teacher \S+ lies in the output folder \S+; choose another"):
        distill_tiny(teacher, teacher, overwrite=True)
    with pytest.raises(UserError, match=r"weights \S+ lies in the output folder"):
        train_tiny(teacher, overwrite=True, init_weights=str(teacher / "model.safetensors"))
    assert contents(teacher) == before
