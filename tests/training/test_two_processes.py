"""What only a teacher can label, in two processes over gloo: the run that one process makes.

The two processes make all runs one after the other: a process of its own for each run would spend its time on imports.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

import segdistill
from segdistill import RunFolder
from tests.training.runs import SCENES
from tests.training.test_kinds_of_teachers import LARGER, three_teachers
from tests.training.test_unlabelled import pictures

#: No padding, so that every part of a batch has as many pixels that count.
WHOLE: dict[str, Any] = SCENES | {"count": 6, "scale": [1.0, 1.2]}


def recipes(folder: Path, teacher: Path) -> dict[str, dict[str, Any]]:
    """What is tried, by name; `pretrain` is a pre-training."""
    photos = {"dataset": "images", "root": str(pictures(folder / "photos", 6)), "held_out": 0.4}
    more = str(pictures(folder / "more", 5))
    several = three_teachers(folder, teacher)
    return {
        "unlabelled": {"data": WHOLE | {"unlabelled": more}, "method": "kd"},
        "mixed": {"data": WHOLE | {"mix": {"cutmix": 0.5, "classmix": 0.5}, "strong": 0.7}, "method": ["kd", "cwd"]},
        "closer": {"teacher_scale": 2, "method": {"feature": {"stages": True}}},
        "several": {
            "data": LARGER | {"count": 6, "scale": [1.0, 1.2]},
            "teacher": several,
            "method": "kd",
            "views": 1,
            "teacher_cache": str(folder / "cache"),
        },
        "no labels": {"data": photos | {"crop": [32, 32], "scale": [1.0, 1.2]}, "method": "kd"},
        "pretrain": {"data": WHOLE | {"unlabelled": more}, "teacher_scale": 2},
    }


def run_all(given: dict[str, dict[str, Any]], teacher: Path, output: Path, devices: int) -> None:
    train = {"epochs": 1, "batch_size": 4, "lr": 3e-3, "precision": "fp32", "workers": 0}
    for name, recipe in given.items():
        function = segdistill.pretrain if name == "pretrain" else segdistill.distill
        function(
            **{"data": WHOLE, "teacher": str(teacher), "student": "python:tests.training.runs:build_unnormalised"}
            | recipe,
            train=train,
            output=output / name,
            devices=devices,
            device="cpu",
            quiet=True,
        )


def one_of_two(rank: int, port: int, given: dict[str, dict[str, Any]], teacher: Path, output: Path) -> None:
    """As torchrun starts a process."""
    torch.set_num_threads(1)
    mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "two"}
    os.environ |= {name: str(value) for name, value in (mine | shared).items()}
    try:
        run_all(given, teacher, output, devices=2)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_make_the_runs_that_one_makes(tmp_path: Path, teacher: Path) -> None:
    """Unlabelled images, mixed pictures in strong colours, a teacher that looks closer, three at once, pre-training."""
    given = recipes(tmp_path, teacher)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = multiprocessing.start_processes(
        one_of_two, args=(port, given, teacher, tmp_path / "two"), nprocs=2, join=False, start_method="spawn"
    )
    while not both.join(timeout=600):
        pass
    given["several"] = given["several"] | {"teacher_cache": str(tmp_path / "another cache")}
    run_all(given, teacher, tmp_path / "one", devices=1)
    for name in given:
        one, two = (RunFolder(tmp_path / folder / name) for folder in ("one", "two"))
        [ours], [theirs] = one.read_history(), two.read_history()
        assert ours.keys() == theirs.keys(), name
        for column in ours.keys() - {"seconds"}:
            assert float(theirs[column]) == pytest.approx(float(ours[column]), rel=1e-3), f"{name}: {column}"
        metrics = two.read_metrics()
        assert metrics is not None
        assert metrics["processes"] == 2
