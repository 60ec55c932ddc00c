"""Faults from outside: one sentence, the last good checkpoint kept, and the run goes on once all is well again."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segdistill
from segdistill import RunFolder, UserError, load_run
from segdistill.cli.main import main
from segdistill.datasets import SegmentationDataset
from segdistill.files import write_yaml
from segdistill.recipe.data import Data
from segdistill.training import distill, train
from segdistill.training.step import Step, Terms
from tests.datasets.trees import folder_tree
from tests.training import runs
from tests.training.runs import SCENES, contents, distill_tiny, fingerprint, train_tiny

REPOSITORY = Path(__file__).parents[2]


def before_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Step], object]) -> None:
    """Does ``act`` right before that optimiser step of a run, counted from 0."""
    step = Step.__call__

    def acting(self: Step, batches: Any) -> list[Terms]:
        if self.number == number:
            act(self)
        return step(self, batches)

    monkeypatch.setattr(Step, "__call__", acting)


def on_disk(root: Path, count: int = 12) -> dict[str, Any]:
    """A recipe's ``data``: files of 12 x 16 pixels."""
    folder_tree(root, {"train": count, "val": 2})
    return {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"], "crop": [16, 16]}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_that_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], workers: int, part: str
) -> None:
    """In the second epoch, of six steps; the first one's checkpoint is gone on from once the files are back."""
    data = on_disk(tmp_path / "data")
    folder, away = tmp_path / "data" / part / "train", tmp_path / "away"
    whole = fingerprint(train_tiny(tmp_path / "whole", data=data, epochs=2))
    with monkeypatch.context() as patch:
        before_step(patch, 7, lambda _: folder.rename(away))
        with pytest.raises(UserError) as error:
            train_tiny(tmp_path / "run", data=data, epochs=2, workers=workers)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value) + capfd.readouterr().err
    run = RunFolder(tmp_path / "run")
    assert torch.load(run.checkpoint_file, weights_only=True)["epoch"] == 1
    away.rename(folder)
    assert fingerprint(train_tiny(run.path, data=data, epochs=2, workers=workers, resume=True)) == whole


def test_a_file_that_vanishes_during_the_pre_stage(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = on_disk(tmp_path / "data") | {"classes": list("abcdef")}
    prepare = segdistill.methods.KA.prepare

    def late(self: Any, batches: Any) -> None:
        (tmp_path / "data" / "images" / "train").rename(tmp_path / "away")
        prepare(self, batches)

    monkeypatch.setattr(segdistill.methods.KA, "prepare", late)
    with pytest.raises(UserError) as error:
        distill_tiny(tmp_path / "run", teacher, data=data, method="ka", workers=1)
    assert str(tmp_path / "data" / "images" / "train") in str(error.value)
    assert "Traceback" not in str(error.value)


TRAIN = {"epochs": 5, "batch_size": 2, "lr": 3e-3, "precision": "fp32"}


def start(recipe: Path, output: Path) -> subprocess.Popen[str]:
    """A run of its own with one data-loading process, past its first checkpoint."""
    write_yaml(recipe, {"data": SCENES | {"count": 100}, "network": runs.STUDENT, "train": TRAIN, "device": "cpu"})
    process = subprocess.Popen(
        command(recipe, output, "--train.workers", "1"),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def command(recipe: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "segdistill", "train", str(recipe), "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What such a run comes to where nothing befalls it."""
    return fingerprint(train_tiny(tmp_path_factory.mktemp("whole") / "run", data=SCENES | {"count": 100}, **TRAIN))


def goes_on(recipe: Path, output: Path, whole: str) -> None:
    assert RunFolder(output).read_metrics() is None
    assert main([*command(recipe, output)[3:], "--resume", "--quiet", "--train.workers", "0"]) == 0
    assert fingerprint(output) == whole


@pytest.mark.slow
def test_a_data_loading_process_that_is_killed(tmp_path: Path, whole: str) -> None:
    """As the system does it where memory runs out."""
    process = start(tmp_path / "recipe.yaml", tmp_path / "run")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(min(map(int, children)), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert errors.startswith("segdistill: a data-loading process died (")
    assert errors.endswith("lower train.workers, then continue with --resume\n")
    assert errors.count("\n") == 1
    goes_on(tmp_path / "recipe.yaml", tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group(tmp_path: Path, whole: str, number: signal.Signals) -> None:
    """A scheduler's SIGTERM and a terminal's Ctrl-C may reach all processes of a run; it saves first all the same."""
    process = start(tmp_path / "recipe.yaml", tmp_path / "run")
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert errors.startswith("segdistill: interrupted in epoch ")
    assert errors.count("\n") == 1  # no data-loading process has a word to say
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert f"epoch {state['epoch'] + 1}, batch {state['batch']} of 50, all saved" in errors
    goes_on(tmp_path / "recipe.yaml", tmp_path / "run", whole)


class FloatScenes(SegmentationDataset):
    """Noise in 0..1 with one NaN pixel wherever ``broken`` says so; labels follow the brightness."""

    broken: set[int]

    def __init__(self, count: int) -> None:
        super().__init__(classes=["dark", "light"], ids=[str(index) for index in range(count)])
        self.broken = set()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))
        labels = (image.mean(0) > 0.5).long()
        if index in self.broken:
            image[1, 7, 9] = torch.nan
        return image, labels


@pytest.mark.parametrize("method", [None, "brd"])
def test_nan_in_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str | None) -> None:
    """The term is named, and neither the network nor the checkpoint of the epoch before has seen the NaN."""
    scenes = FloatScenes(8)

    def build(values: Any, *rest: Any, **more: Any) -> Data:
        augmentation = segdistill.recipe.data.Augmentation(crop=(32, 32), scale=(1.0, 1.0))
        return Data(train=scenes, val=scenes, augmentation=augmentation, values={"dataset": "mine", "crop": [32, 32]})

    def go(name: str, **options: Any) -> RunFolder:
        if method is None:
            return train_tiny(tmp_path / name, epochs=3, **options)
        return distill_tiny(tmp_path / name, tmp_path / "teacher", method=method, epochs=3, **options)

    monkeypatch.setattr(train, "build_data", build)
    monkeypatch.setattr(distill, "build_data", build)
    if method is not None:
        train_tiny(tmp_path / "teacher", runs.TEACHER, epochs=1)
    whole = fingerprint(go("whole"))
    with monkeypatch.context() as patch:
        before_step(patch, 6, lambda _: scenes.broken.add(3))
        with pytest.raises(UserError) as error:
            go("run")
    if method is None:
        assert "the loss became NaN or infinite in epoch " in str(error.value)
        assert "first in the term task" in str(error.value)
    else:  # on a CPU the teacher's outputs are looked at before the student's loss
        assert "hold NaN or infinite values" in str(error.value)
    scenes.broken.clear()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] in (1, 2)  # the image may come again in the last epoch only
    for weights in (state["learner"], state["ema"], load_run(tmp_path / "run").state_dict()):
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert fingerprint(go("run", resume=True)) == whole


def test_weights_that_break_within_an_epoch_reach_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step was still finite; a checkpoint is due right after it."""

    def break_weights(step: Step) -> None:
        make = step._stepper.step

        def breaking(*args: Any) -> None:
            make(*args)
            next(step.learner.parameters()).data.fill_(float("nan"))

        monkeypatch.setattr(step._stepper, "step", breaking)

    data = SCENES | {"count": 12}
    whole = fingerprint(train_tiny(tmp_path / "whole", data=data, epochs=1))
    with monkeypatch.context() as patch:
        before_step(patch, 3, break_weights)
        with pytest.raises(UserError, match=r"the weights became NaN or infinite in epoch 1, by batch 4"):
            train_tiny(tmp_path / "run", data=data, epochs=1, checkpoint_minutes=0)
    monkeypatch.undo()
    run = RunFolder(tmp_path / "run")
    assert torch.load(run.checkpoint_file, weights_only=True)["batch"] == 3
    assert fingerprint(train_tiny(run.path, data=data, epochs=1, resume=True)) == whole


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write \S+file/run: one of its folders is a file"):
        train_tiny(tmp_path / "file" / "run")


def test_a_read_only_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the system's answer is played here."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("segdistill.files.tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match=r"^cannot write \S+config\.yaml: Read-only file system$"):
        train_tiny(tmp_path / "run")
    assert contents(tmp_path) == {}


def test_an_output_folder_that_becomes_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fingerprint(train_tiny(tmp_path / "whole"))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        before_step(patch, 4, lambda _: patch.setattr("segdistill.files.tempfile.mkstemp", refuse))
        with pytest.raises(UserError, match=r"Read-only file system$"):
            train_tiny(tmp_path / "run")
    assert fingerprint(train_tiny(tmp_path / "run", resume=True)) == whole


def test_curves_that_nobody_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, or a server that is gone, is told of once; history.csv goes on."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    whole = fingerprint(train_tiny(tmp_path / "whole"))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", refuse)
    run = segdistill.train(data=SCENES, network=runs.STUDENT, output=tmp_path / "run", train=runs.FAST, device="cpu")
    told = [line for line in capsys.readouterr().out.splitlines() if "TensorBoard" in line]
    reason = "[Errno 28] No space left on device"
    assert told == [f"warning: TensorBoardLogger takes no more values ({reason}); the run continues without it"]
    assert fingerprint(run) == whole
    assert len(run.read_history()) == len(RunFolder(tmp_path / "whole").read_history())


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_tracker_that_is_not_installed(tmp_path: Path) -> None:
    logger = "" if importlib.util.find_spec("pytorch_lightning") else " pytorch-lightning"
    with pytest.raises(UserError, match=rf"^tracker wandb is not installed; pip install wandb{logger}$"):
        train_tiny(tmp_path / "run", tracker="wandb")
    with pytest.raises(UserError, match=r"^unknown tracker 'wadb': did you mean 'wandb'\? Known: mlflow, wandb$"):
        train_tiny(tmp_path / "run", tracker="wadb")
    assert not (tmp_path / "run").exists()
