"""Two processes over gloo: the same run as one, written once, and ended together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segdistill import RunFolder
from segdistill.cli.main import main
from segdistill.files import write_yaml
from tests.training.runs import SCENES, contents

REPOSITORY = Path(__file__).parents[2]
TRAIN = {"epochs": 3, "batch_size": 4, "lr": 3e-3, "precision": "fp32", "workers": 0, "ema": 0.9}
SCENES_WITHOUT_PADDING = SCENES | {"count": 9, "scale": [1.0, 1.2]}


def write_recipe(path: Path, teacher: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "data": SCENES_WITHOUT_PADDING,
        "teacher": str(teacher),
        "student": "python:tests.training.runs:build_unnormalised",
        "method": "kd",
        "train": TRAIN,
        "device": "cpu",
    }
    write_yaml(path, recipe | changes)
    return path


def command(recipe: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "segdistill", "distill", str(recipe), "--output", str(output), *more]


def start(recipe: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    for name in ("MASTER_PORT", "LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK"):
        environment.pop(name, None)
    return subprocess.Popen(
        command(recipe, output, *more),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_make_the_run_that_one_makes(strategy: str, tmp_path: Path, teacher: Path) -> None:
    """Same losses, same scores; in lines and files there is one run, not two."""
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, method=["brd", "drd"])
    both = start(recipe, tmp_path / "two", "--devices", "2", "--strategy", strategy)
    output, errors = both.communicate(timeout=200)
    assert both.returncode == 0, errors
    lines = [line for line in output.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert main(command(recipe, tmp_path / "one")[3:]) == 0
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert one.read_config() == two.read_config()
    for ours, theirs in zip(one.read_history(), two.read_history(), strict=True):
        for name in ours:
            if name != "seconds":
                assert float(theirs[name]) == pytest.approx(float(ours[name]), rel=1e-4), name
    ours, theirs = one.read_metrics(), two.read_metrics()
    assert ours is not None
    assert theirs is not None
    assert (ours["pixels"], ours["processes"]) == (theirs["pixels"], 1)
    assert theirs["processes"] == 2
    assert {name for name in contents(one.path) if "events" not in name} == {
        name for name in contents(two.path) if "events" not in name
    }


@pytest.mark.slow
def test_one_that_dies_ends_the_others(tmp_path: Path, teacher: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, train=TRAIN | {"epochs": 2000})
    first = start(recipe, tmp_path / "run", "--devices", "2")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            assert first.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        began = time.monotonic()
        _, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert time.monotonic() - began < 60
    assert first.returncode != 0
    assert re.search(
        r"^segdistill: process 0 lost the others \(.+\); see what the first one to end has printed", errors, re.M
    )
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_batch_that_cannot_be_shared(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, train=TRAIN | {"batch_size": 3})
    assert main(command(recipe, tmp_path / "run", "--devices", "2")[3:]) == 2
    assert "train.batch_size is 3, which 2 processes x 1 accumulated batches do not divide" in capsys.readouterr().err


def test_accumulated_batches_make_the_same_run(tmp_path: Path, teacher: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher)
    runs = []
    for parts in (1, 2):
        assert main(command(recipe, tmp_path / str(parts), "--train.accumulate", str(parts))[3:]) == 0
        runs.append(RunFolder(tmp_path / str(parts)).read_history())
    for ours, theirs in zip(*runs, strict=True):
        assert float(theirs["loss/task"]) == pytest.approx(float(ours["loss/task"]), rel=1e-4)
        assert float(theirs["val/miou"]) == pytest.approx(float(ours["val/miou"]), rel=1e-3)


@pytest.mark.slow
def test_sigterm_ends_all_and_loses_nothing(tmp_path: Path, teacher: Path) -> None:
    """The scheduler's way: SIGTERM to every process. With weights shared out, so that a checkpoint gathers them all."""
    train = TRAIN | {"epochs": 14}
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, train=train, method=["brd", "drd"], loss_weights="auto")
    first = start(recipe, tmp_path / "run", "--devices", "2", "--strategy", "fsdp")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for pid in [first.pid, *map(int, children)]:
        os.kill(pid, signal.SIGTERM)
    _, errors = first.communicate(timeout=100)
    assert first.returncode == 143, errors
    assert "all saved" in errors
    again = start(recipe, tmp_path / "run", "--devices", "2", "--strategy", "fsdp", "--resume")
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    run = RunFolder(tmp_path / "run")
    assert len(run.read_history()) == 14
    assert set(run.read_config()["loss_weights"]) == {
        "brd.boundary",
        "brd.relation",
        "brd.kd",
        "drd.spatial",
        "drd.channel",
    }
