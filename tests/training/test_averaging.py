"""The average of the weights, the best epoch, and when a run stops of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

import segdistill
from segdistill import RunFolder
from segdistill.evaluation.evaluate import measure
from segdistill.metrics.scores import Scores
from segdistill.recipe.data import build_split
from segdistill.training.step import Step, Terms
from segdistill.training.validator import Validator
from tests.training.faults import Killed, kill_after
from tests.training.runs import FAST, SCENES, STUDENT, fingerprint, train_tiny

Weights = dict[str, Tensor]
SMP = "smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=32&decoder_segmentation_channels=32"


def copy_of(network: torch.nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The student's weights as the runs of a test leave them step by step."""
    seen: list[Weights] = []
    step = Step.__call__

    def recording(self: Step, batches: Any) -> list[Terms]:
        parts = step(self, batches)
        seen.append(copy_of(self.learner.student))
        return parts

    monkeypatch.setattr(Step, "__call__", recording)
    return seen


def averages(students: list[Weights], decay: float) -> list[Weights]:
    """After each step n = 1, 2, ...: m <- d m + (1 - d) x with d = min(decay, 1 - n^(-3/4)); counts are copied."""
    mean: Weights = {}
    found = []
    for n, student in enumerate(students, start=1):
        d = min(decay, 1 - n**-0.75)
        for name, value in student.items():
            if not value.is_floating_point():
                mean[name] = value
            elif n == 1:
                mean[name] = value.double()
            else:
                mean[name] = d * mean[name] + (1 - d) * value.double()
        found.append(dict(mean))
    return found


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6, msg=name)


def saved(folder: Path) -> Weights:
    return copy_of(segdistill.load_run(folder))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_formula(tmp_path: Path, after_each_step: list[Weights], decay: float) -> None:
    """0.5 is reached at the third step; 0.999 never, in so short a run."""
    run = train_tiny(tmp_path / "run", epochs=4, ema=decay)
    assert len(after_each_step) == 8
    found = saved(run.path)
    assert_same(found, averages(after_each_step, decay)[-1])
    statistics = [name for name in found if "running" in name]
    assert statistics
    assert any(not torch.equal(found[name], after_each_step[-1][name]) for name in statistics)  # averaged as well


def test_the_average_is_what_is_validated(tmp_path: Path, after_each_step: list[Weights]) -> None:
    run = train_tiny(tmp_path / "run", epochs=4, ema=0.9, lr=2e-2)
    val = build_split(SCENES, "val")
    network = segdistill.load_run(run.path)
    rows = [float(row["val/miou"]) for row in run.read_history()]
    students = []
    for row, (student, average) in zip(
        rows, list(zip(after_each_step, averages(after_each_step, 0.9), strict=True))[1::2], strict=True
    ):
        network.load_state_dict({name: value.to(student[name].dtype) for name, value in average.items()})
        assert measure(network, val).miou == pytest.approx(row, abs=0.02)
        network.load_state_dict(student)
        students.append(measure(network, val).miou)
    assert students != pytest.approx(rows, abs=0.02)


def test_without_an_average_the_student_is_saved(tmp_path: Path, after_each_step: list[Weights]) -> None:
    run = train_tiny(tmp_path / "run", ema=0)
    found = saved(run.path)
    assert found.keys() == after_each_step[-1].keys()
    assert all(torch.equal(value, after_each_step[-1][name]) for name, value in found.items())
    assert torch.load(run.checkpoint_file, weights_only=True)["ema"] is None


def give_scores(monkeypatch: pytest.MonkeyPatch, *mious: float) -> None:
    """What the validations of the next runs find, one after another."""
    left = list(mious)
    scores = Scores(miou=0, pixel_accuracy=0, mean_f1=0, iou={}, f1={}, pixels=1)
    monkeypatch.setattr(Validator, "__call__", lambda *_: replace(scores, miou=left.pop(0)))


@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_best_epoch_is_kept_beside_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_each_step: list[Weights], ema: float
) -> None:
    give_scores(monkeypatch, 10, 30, 20, 30)  # as good as the best is not better
    run = train_tiny(tmp_path / "run", epochs=4, ema=ema)
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["best"] == {"miou": 30, "epoch": 2}
    assert (metrics["miou"], metrics["epochs"]) == (30, 4)
    kept = averages(after_each_step, ema) if ema else after_each_step
    assert_same(saved(run.path / "best"), kept[3])
    assert_same(saved(run.path), kept[7])


def test_the_best_comes_back_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        give_scores(patch, 10, 30)
        kill_after(patch, epoch=2)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "run")
    best = fingerprint(tmp_path / "run" / "best")
    give_scores(monkeypatch, 20)
    metrics = train_tiny(tmp_path / "run", resume=True).read_metrics()
    assert metrics is not None
    assert metrics["best"] == {"miou": 30, "epoch": 2}
    assert fingerprint(tmp_path / "run" / "best") == best != fingerprint(tmp_path / "run")


def test_the_best_is_its_own_librarys(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", SMP, epochs=1, data=SCENES | {"size": [64, 64], "crop": [64, 64]})
    images = torch.rand(1, 3, 64, 64)
    ours = segdistill.load_network(str(run.path / "best"), num_classes=None).eval()
    theirs = smp.from_pretrained(str(run.path / "best")).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(normalised), rtol=1e-4, atol=1e-5)


def test_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two validations in a row without anything better: the fourth epoch is the last, and the run is whole."""
    give_scores(monkeypatch, 10, 30, 20, 25)
    train = replace(FAST, epochs=9, patience=2)
    options: dict[str, Any] = {"data": SCENES, "network": STUDENT, "train": train, "device": "cpu"}
    run = segdistill.train(output=tmp_path / "run", **options)
    assert "no better mIoU in 2 validations; stopping after epoch 4" in capsys.readouterr().out.splitlines()
    assert [row["epoch"] for row in run.read_history()] == ["1", "2", "3", "4"]
    metrics = run.read_metrics()
    assert metrics is not None
    assert (metrics["epochs"], metrics["miou"], metrics["best"]) == (4, 25, {"miou": 30, "epoch": 2})

    segdistill.train(output=tmp_path / "run", resume=True, **options)
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'run'} is finished already"


def test_patience_counts_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_scores(monkeypatch, 30, 20, 31, 20, 20)
    run = train_tiny(tmp_path / "run", epochs=20, patience=2, validate_every=2)
    assert len(run.read_history()) == 10


def test_a_kill_between_stopping_and_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further epoch is trained: only what is missing is made up for."""
    with monkeypatch.context() as patch:
        give_scores(patch, 30, 20)
        kill_after(patch, epoch=2)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "run", epochs=9, patience=1)
    network = fingerprint(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_metrics() is None
    run = train_tiny(tmp_path / "run", epochs=9, patience=1, resume=True)
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["epochs"] == len(run.read_history()) == 2
    assert metrics["miou"] == pytest.approx(measure(segdistill.load_run(run.path), build_split(SCENES, "val")).miou)
    assert fingerprint(run) == network
