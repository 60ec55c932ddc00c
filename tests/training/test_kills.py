"""kill -9 at random moments: the run that goes on ends where the unbroken one does."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from segdistill import RunFolder
from tests.training.runs import SCENES, distill_tiny, fingerprint

#: Kills in each run; ``SEGDISTILL_KILLS=50 pytest tests/training/test_kills.py`` for more.
KILLS = int(os.environ.get("SEGDISTILL_KILLS", "10"))


def one_run(output: Path, teacher: Path, precision: str, **options: Any) -> RunFolder:
    return distill_tiny(
        output,
        teacher,
        method=["ka", "brd"],
        epochs=30,
        accumulate=2,
        data=SCENES | {"count": 12},
        precision=precision,
        loss_weights="auto",
        **options,
    )


def resumed_run(output: Path, teacher: Path, precision: str) -> None:
    """What each process does until it is killed: a checkpoint after every step."""
    one_run(output, teacher, precision, resume=True, checkpoint_minutes=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_random_moments(tmp_path: Path, teacher: Path, precision: str) -> None:
    """Optimiser, schedule, average of the weights, adapters, auto-encoder and measured weights all come back."""
    run, chance = tmp_path / "run", random.Random(precision)
    # A server that has imported torch already: a fresh interpreter would spend all its life on that.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "segdistill.training.run", "torch.utils.tensorboard"])
    kills = 0
    while RunFolder(run).read_metrics() is None:
        process = context.Process(target=resumed_run, args=(run, teacher, precision))
        process.start()
        if kills < KILLS:
            wait_for_a_sign_of_life(run, process)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
        process.join(timeout=300)
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
    assert kills >= min(KILLS, 3)
    whole = one_run(tmp_path / "whole", teacher, precision)
    assert fingerprint(run) == fingerprint(whole)
    assert RunFolder(run).read_config()["loss_weights"] == whole.read_config()["loss_weights"]
    assert set(whole.read_config()["loss_weights"]) >= {"ka.adapt", "brd.relation", "brd.boundary"}
    ours, theirs = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in folder.read_history()]
        for folder in (RunFolder(run), whole)
    )
    assert ours == theirs


def wait_for_a_sign_of_life(run: Path, process: BaseProcess) -> None:
    """Until this process, not one before it, has written something."""
    since = time.time()
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        files = [run / "config.yaml", *run.glob("checkpoints/*.ckpt")]
        if any(file.exists() and file.stat().st_mtime > since for file in files):
            return
        time.sleep(0.005)
