"""Output folders that are taken, full or damaged, and a training that fails: one sentence each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill.methods import KD
from tests.cli.failing import CLASSES, TRAIN, argv, broken, fails
from tests.datasets.trees import folder_tree
from tests.training.runs import SCENES, STUDENT, contents


def test_output_that_is_taken(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    arguments = argv("train", data=SCENES, network=STUDENT, train=TRAIN, device="cpu", output=run)
    fails(capfd, arguments, f"output folder {run} already holds a run", "--resume", "--overwrite")
    fails(capfd, [*arguments, "--resume"], f"cannot resume {run} with another recipe", "network was")
    fails(capfd, [*arguments, "--overwrite", "--network", "smp:FPM:resnet18"], "unknown smp architecture")
    fails(capfd, [*arguments, "--overwrite", "--data.count", "0"], "count is 0")
    fails(capfd, [*arguments, "--overwrite", "--train.lr", "-1"], "train.lr is -1.0")
    assert contents(run) == before


def test_output_that_is_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine too")
    before = contents(tmp_path)
    common = {"data": SCENES, "network": STUDENT, "train": TRAIN, "device": "cpu"}
    for switch in ([], ["--overwrite"], ["--resume"]):
        fails(capfd, [*argv("train", **common, output=tmp_path / "file"), *switch], "file is a file, expected a folder")
        fails(capfd, [*argv("train", **common, output=tmp_path / "folder"), *switch], "not empty and holds no run")
    fails(
        capfd, argv("train", **common, output=tmp_path / "file" / "run"), "cannot write", "one of its folders is a file"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["images/run", "images/train/run", "masks/run"])
def test_output_among_the_images(tmp_path: Path, capfd: pytest.CaptureFixture[str], finished: Path, place: str) -> None:
    """A folder there is a split of the data; the next look at the data would find a run in it."""
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 1})
    before = contents(root)
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES}
    told = (f"output folder {root}/{place} lies in {root}/{place.split('/')[0]}, whose folders are splits",)
    common = {"train": TRAIN, "device": "cpu", "output": root / place}
    fails(capfd, argv("train", data=data, network=STUDENT, **common), *told)
    splits = {"train": data, "val": data | {"split": "train"}}
    student = {"teacher": finished, "student": STUDENT}
    fails(capfd, argv("distill", data=splits, **student, **common), *told)
    fails(capfd, argv("compare", data=data, **student, methods="none,kd", **common), *told)
    assert contents(root) == before


def test_output_that_the_disk_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    arguments = argv("train", data=SCENES, network=STUDENT, train=TRAIN, device="cpu", output=tmp_path / "run")
    fails(capfd, arguments, "cannot write", "run/config.yaml: No space left on device")


def test_damaged_checkpoint(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.json").unlink()
    broken(run / "checkpoints" / "last.ckpt")
    arguments = ["train", run / "config.yaml", "--output", run, "--device", "cpu", "--resume"]
    fails(capfd, arguments, f"checkpoint {run / 'checkpoints' / 'last.ckpt'} is damaged")


def test_damaged_run_as_teacher_or_model(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    broken(run / "model.safetensors")
    arguments = argv("distill", data=SCENES, teacher=run, student=STUDENT, train=TRAIN, output=tmp_path / "new")
    fails(capfd, arguments, f"{run / 'model.safetensors'} is damaged or truncated")
    fails(capfd, ["evaluate", run, "--device", "cpu"], f"{run / 'model.safetensors'} is damaged or truncated")
    (run / "network.json").unlink()
    fails(capfd, ["evaluate", run, "--device", "cpu"], f"folder {run} holds no saved network: network.json is missing")
    assert not (tmp_path / "new").exists()


def test_loss_that_becomes_nan(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    forward = KD.forward

    def poisoned(self: KD, **views: Any) -> dict[str, torch.Tensor]:
        return {name: term * float("nan") for name, term in forward(self, **views).items()}

    monkeypatch.setattr(KD, "forward", poisoned)
    arguments = argv("distill", data=SCENES, teacher=finished, student=STUDENT, train=TRAIN, output=tmp_path / "run")
    fails(capfd, [*arguments, "--method", "[brd, kd]"], "NaN or infinite in epoch 1, first in the term kd")
