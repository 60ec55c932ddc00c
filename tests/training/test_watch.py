"""Warnings: each said once, with the right numbers, and only where something is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill import Network
from segdistill.metrics.scores import Scores
from segdistill.training.watch import Watch
from tests.training import runs
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, train_tiny


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(said: list[str]) -> Watch:
    return Watch(said.append)


def test_terms_that_drown_the_task_or_do_nothing(watch: Watch, said: list[str]) -> None:
    watch.terms({"task": 0.5, "kd": 25.0, "brd.boundary": 0.001, "brd.relation": 0.3})
    assert said == [
        "warning: kd is 50 times the task loss; if val mIoU stays low, lower its weight, or set loss_weights: auto",
        "warning: brd.boundary is 0.2 % of the task loss; raise its weight, or set loss_weights: auto",
    ]


@pytest.mark.parametrize(("value", "warns"), [(10.0, False), (10.1, True), (0.01, False), (0.0099, True), (0.0, True)])
def test_the_limits(watch: Watch, said: list[str], value: float, warns: bool) -> None:
    """Ten times and a hundredth of the task loss, both still allowed."""
    watch.terms({"task": 1.0, "kd": value})
    assert bool(said) is warns


def test_without_a_task_loss_there_is_nothing_to_compare_with(watch: Watch, said: list[str]) -> None:
    watch.terms({"kd": 1e6})
    watch.terms({"task": 0.0, "kd": 1e6})
    assert not said


def test_each_is_said_once(watch: Watch, said: list[str]) -> None:
    for value in (20.0, 40.0):
        watch.terms({"task": 1.0, "kd": value})
        watch.teacher(30.0, 30.0 + value)
        watch.classes(scores(road=value, car=0.0), "ce")
    assert [line.split()[1] for line in said] == ["kd", "the", "no"]
    assert "20 times" in said[0]
    watch.terms({"task": 1.0, "kd": 1.0, "cwd": 20.0})  # another term is another matter
    assert len(said) == 4


def scores(**iou: float | None) -> Scores:
    return Scores(miou=0, pixel_accuracy=0, mean_f1=0, iou=dict(iou), f1=dict(iou), pixels=1)


def test_teacher_below_the_student(watch: Watch, said: list[str]) -> None:
    watch.teacher(70.0, 69.9)
    watch.teacher(70.0, 70.0)
    assert not said
    watch.teacher(12.345, 34.567)
    assert said[0].startswith("warning: the teacher's mIoU is 12.35 here, below the student's 34.57 after its first ")


def test_classes_never_found(watch: Watch, said: list[str]) -> None:
    """Those that are absent from the split have no score, and are not meant."""
    watch.classes(scores(road=50.0, car=0.01, boat=None), "ce")
    assert not said
    watch.classes(scores(road=50.0, car=0.0, boat=None, tree=0.0), "ce")
    assert said == ["warning: no pixel was predicted correctly as car, tree; train.loss balanced may help"]
    for loss in ("balanced", str({"balanced": {"adjust": 0}, "dice": {}})):
        Watch(said.append).classes(scores(road=0.0), loss)
    assert said[1:] == 2 * ["warning: no pixel was predicted correctly as road"]


def build_blind(num_classes: int, in_channels: int) -> Network:
    """Says the last class, everywhere."""
    network = runs.build_teacher(num_classes, in_channels)
    network.model.classifier.weight.data.zero_()
    network.model.classifier.bias.data.zero_()[-1] = 9.0
    return network


def warnings_of(run: Path, teacher: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """What a distillation warns of."""
    capsys.readouterr()
    settings: dict[str, Any] = {"data": SCENES, "student": STUDENT, "train": FAST, "device": "cpu"}
    segdistill.distill(teacher=teacher, output=run, **(settings | options))
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_a_teacher_that_knows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked at the first validation, that of epoch 6, and told of once, with the numbers of the run's own files."""
    build_blind(6, 3).save(tmp_path / "blind")
    lines = warnings_of(
        tmp_path / "run",
        TEACHER,
        capsys,
        teacher_weights=str(tmp_path / "blind" / "model.safetensors"),
        method={"kd": {"weight": 0.0}},
        train=replace(FAST, epochs=12, lr=2e-2, validate_every=6, ema=0, loss="ce"),
    )
    run = segdistill.RunFolder(tmp_path / "run")
    metrics = run.read_metrics()
    assert metrics is not None
    teacher, student = metrics["teacher_miou"], float(run.read_history()[5]["val/miou"])
    assert teacher < student
    told = [line for line in lines if "the teacher's" in line]
    assert len(told) == 1
    assert f"is {teacher:.2f} here, below the student's {student:.2f}" in told[0]
    never = [name for name, iou in metrics["iou"].items() if iou == 0]
    assert never
    assert f"warning: no pixel was predicted correctly as {', '.join(never)}; train.loss balanced may help" in lines


def test_a_term_a_hundred_times_the_task_loss(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """KD's weight is chosen so that its term of the first epoch is a hundred times the task loss's."""
    plain = tmp_path / "plain"
    assert not [line for line in warnings_of(plain, teacher, capsys, method="kd") if " kd is " in line]
    row = segdistill.RunFolder(plain).read_history()[0]
    weight = 100 * float(row["loss/task"]) / float(row["loss/kd"])
    lines = warnings_of(tmp_path / "run", teacher, capsys, method={"kd": {"weight": weight}})
    told = [line for line in lines if " kd is " in line]
    assert len(told) == 1  # in three epochs
    row = segdistill.RunFolder(tmp_path / "run").read_history()[0]
    ratio = float(row["loss/kd"]) / float(row["loss/task"])
    assert ratio > 10
    assert re.search(rf" kd is {ratio:.0f} times the task loss; if val mIoU stays low, lower its weight", told[0])


def test_no_advice_to_do_what_is_done(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With measured weights gradients are balanced; what the values are then is nobody's mistake."""
    options: dict[str, Any] = {"method": {"kd": {"weight": 1e4}}, "loss_weights": "auto"}
    assert not [line for line in warnings_of(tmp_path / "run", teacher, capsys, **options) if " kd is " in line]


def test_a_good_teacher_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its score is kept with the checkpoint; a run that goes on does not ask again."""
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=6, lr=2e-2).path
    lines = warnings_of(tmp_path / "run", teacher, capsys, method="kd", train=replace(FAST, lr=1e-5))
    assert not [line for line in lines if "the teacher's" in line]
    state = segdistill.RunFolder(tmp_path / "run").read_metrics()
    assert state is not None
    expected = segdistill.RunFolder(teacher).read_metrics()
    assert expected is not None
    assert state["teacher_miou"] == pytest.approx(expected["miou"], abs=0.02)
