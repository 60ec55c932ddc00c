"""Measured weights of loss terms, held against plain autograd; weights given by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, RunFolder, UserError
from segdistill.cli.main import main
from segdistill.files import write_yaml
from segdistill.methods import BRD, KD, Method
from segdistill.training.balance import MEASURED_STEPS, SHARE, Balance
from tests.tiny import tiny_network
from tests.training.faults import Killed, kill_after
from tests.training.runs import distill_tiny


class Aside(Method):
    """A term that depends on a parameter of its own and on nothing of the student's."""

    def build(self, student: Any, teacher: Any) -> None:
        self.own = torch.nn.Parameter(torch.ones(()))

    def forward(self, **_: Any) -> dict[str, Tensor]:
        return {"loss": self.own**2}


def tiny_pair(*methods: Method) -> Distiller:
    return Distiller(tiny_network(8, seed=1, classes=5), tiny_network(4, seed=2, classes=5), list(methods))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return [
        (torch.rand(2, 3, 32, 32, generator=chance), torch.randint(0, 5, (2, 32, 32), generator=chance))
        for _ in range(count)
    ]


def measured(distiller: Distiller, count: int = MEASURED_STEPS) -> Balance:
    """A balance that has seen so many steps, each of another batch."""
    balance = Balance()
    for images, labels in batches(count):
        out = distiller(images, labels)
        balance(out.losses, out.features)
        balance.close_step(lambda value: value)
    return balance


def gradient_norm(distiller: Distiller, images: Tensor, labels: Tensor, term: str, place: str) -> float:
    """Of one term alone at one place: its own forward pass, and what backward() leaves there."""
    out = distiller(images, labels)
    assert out.features is not None
    where = out.features.embedding if place == "embedding" else out.features.stages[-1]
    where.retain_grad()
    out.losses[term].backward()
    assert where.grad is not None
    return float(where.grad.norm())


def test_factors_are_plain_autograds() -> None:
    """Sums of norms over the steps; BRD's boundaries lie before the embedding, so they are measured a stage earlier."""
    distiller = tiny_pair(BRD(), KD(weight=3.0))
    factors = measured(distiller).factors
    places = {"brd.boundary": "stage", "brd.relation": "embedding", "brd.kd": "embedding", "kd": "embedding"}
    assert factors is not None
    assert factors.keys() == places.keys()
    for term, place in places.items():
        own, task = (
            sum(gradient_norm(distiller, *batch, name, place) for batch in batches(MEASURED_STEPS))
            for name in (term, "task")
        )
        assert factors[term] == pytest.approx(SHARE * task / own, rel=1e-3), term
    assert factors["kd"] == pytest.approx(factors["brd.kd"] / 3, rel=1e-3)  # whatever it weighed before


def test_a_term_gets_its_share_of_the_gradient() -> None:
    """What it is all for: on the batches measured, the weighted term pulls 0.3 times as hard as the task."""
    distiller = tiny_pair(KD(weight=1e4))
    balance = measured(distiller)
    pulls = {"task": 0.0, "kd": 0.0}
    for images, labels in batches(MEASURED_STEPS):
        for name in pulls:
            out = distiller(images, labels)
            assert out.features is not None
            (slope,) = torch.autograd.grad(balance(out.losses, out.features)[name], out.features.embedding)
            pulls[name] += float(slope.norm())
    assert pulls["kd"] / pulls["task"] == pytest.approx(0.3, rel=1e-3)


def test_a_term_that_reaches_nothing_keeps_its_weight() -> None:
    distiller = tiny_pair(Aside(), KD())
    balance = measured(distiller)
    assert balance.factors is not None
    assert set(balance.factors) == {"kd"}
    out = distiller(*batches(1)[0])
    assert balance(out.losses, out.features)["aside"] is out.losses["aside"]


def test_a_task_without_a_gradient_silences_nothing() -> None:
    """Steps without one valid label say nothing about shares."""
    distiller, balance = tiny_pair(KD()), Balance()
    distiller.ignored = "distil"
    for images, labels in batches(MEASURED_STEPS):
        out = distiller(images, torch.full_like(labels, 255))
        balance(out.losses, out.features)
        balance.close_step(lambda value: value)
    assert balance.factors == {}


def test_frozen_once_measured() -> None:
    """Every term weighs what its method says until the last step measured, and the same from then on."""
    distiller, balance = tiny_pair(KD()), Balance()
    ratios, closed = [], []
    for images, labels in batches(MEASURED_STEPS + 5):
        out = distiller(images, labels)
        weighted = balance(out.losses, out.features)
        assert weighted["task"] is out.losses["task"]
        ratios.append(float(weighted["kd"].detach() / out.terms["kd"]))
        closed.append(balance.close_step(lambda value: value))
    assert closed == [False] * (MEASURED_STEPS - 1) + [True] + [False] * 5
    assert ratios[:MEASURED_STEPS] == [1.0] * MEASURED_STEPS
    assert balance.factors is not None
    assert ratios[MEASURED_STEPS:] == pytest.approx([balance.factors["kd"]] * 5)
    assert balance.factors["kd"] != 1


def test_measuring_leaves_the_gradients_alone() -> None:
    distiller = tiny_pair(BRD())
    found = []
    for balance in (Balance(), Balance({})):
        distiller.zero_grad()
        out = distiller(*batches(1)[0])
        torch.stack(list(balance(out.losses, out.features).values())).sum().backward()
        found.append([p.grad.clone() for p in distiller.parameters() if p.grad is not None])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))


def test_the_state_comes_back_in_the_midst() -> None:
    distiller = tiny_pair(KD())
    half = measured(distiller, 7)
    again = Balance()
    again.load(half.state(), torch.device("cpu"))
    for balance in (half, again):
        for images, labels in batches(MEASURED_STEPS)[7:]:
            out = distiller(images, labels)
            balance(out.losses, out.features)
            balance.close_step(lambda value: value)
    assert half.factors == again.factors == measured(distiller).factors


def rows(run: RunFolder) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.read_history()]


def test_what_was_found_is_written_down_and_is_a_recipe(tmp_path: Path, teacher: Path) -> None:
    """Two steps an epoch: eleven epochs measure and go on; the written recipe trains by the same weights at once."""
    run = distill_tiny(tmp_path / "run", teacher, method=["brd", "kd"], epochs=11, loss_weights="auto")
    found = run.read_config()["loss_weights"]
    assert set(found) == {"brd.boundary", "brd.relation", "brd.kd", "kd"}
    assert all(isinstance(value, float) and value > 0 for value in found.values())
    again = tmp_path / "again"
    assert main(["distill", str(run.config_file), "--output", str(again), "--device", "cpu", "--quiet"]) == 0
    assert RunFolder(again).read_config() == run.read_config()
    by_hand = distill_tiny(tmp_path / "by hand", teacher, method=["brd", "kd"], epochs=11, loss_weights=found)
    assert rows(RunFolder(again)) == rows(by_hand)
    first = distill_tiny(tmp_path / "first", teacher, method=["brd", "kd"], epochs=1)
    assert float(rows(run)[0]["loss/kd"]) == float(rows(first)[0]["loss/kd"])  # nothing is scaled while measuring


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [9, 11])
def test_a_run_goes_on_with_the_weights_in_its_own_config(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """``distill RUN/config.yaml --output RUN --resume``: the checkpoint still says "auto", the file what was found.

    After 9 epochs the checkpoint is from before the end of the measurement, and the file from after it.
    """
    whole = distill_tiny(tmp_path / "whole", teacher, epochs=12, loss_weights="auto")
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        kill_after(patch, epoch)
        with pytest.raises(Killed):
            distill_tiny(run.path, teacher, epochs=12, loss_weights="auto")
    write_yaml(run.config_file, whole.read_config())
    arguments = ["distill", str(run.config_file), "--output", str(run.path), "--device", "cpu", "--quiet", "--resume"]
    assert main(arguments) == 0
    assert rows(run) == rows(whole)
    assert run.read_config() == whole.read_config()


def test_weights_by_hand(tmp_path: Path, teacher: Path) -> None:
    """KD's weight given by the method, and by ``loss_weights`` on top of it, is the same run."""
    by_method = distill_tiny(tmp_path / "a", teacher, method={"kd": {"weight": 6.0}})
    on_top = distill_tiny(tmp_path / "b", teacher, method={"kd": {"weight": 3.0}}, loss_weights={"kd": 2.0})
    for ours, theirs in zip(rows(on_top), rows(by_method), strict=True):
        assert {key: float(value) for key, value in ours.items()} == pytest.approx(
            {key: float(value) for key, value in theirs.items()}, rel=1e-4
        )
    assert on_top.read_config()["loss_weights"] == {"kd": 2.0}


def test_a_term_that_does_not_exist(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError) as error:
        distill_tiny(tmp_path / "run", teacher, method="brd", loss_weights={"brd.relatoin": 2.0})
    assert str(error.value) == (
        "unknown loss term in loss_weights: 'brd.relatoin': did you mean 'brd.relation'? "
        "Known: brd.boundary, brd.kd, brd.relation, task"
    )


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf"), "much"])
def test_impossible_factors(tmp_path: Path, teacher: Path, factor: Any) -> None:
    with pytest.raises(UserError, match=rf"^loss_weights: kd is {factor!r}, expected a number, 0 or more"):
        distill_tiny(tmp_path / "run", teacher, loss_weights={"kd": factor})
    assert not (tmp_path / "run").exists()


def test_an_unknown_word(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(
        UserError, match=r"^loss_weights is 'atuo', expected fixed, auto, or a factor for each loss term"
    ):
        distill_tiny(tmp_path / "run", teacher, loss_weights="atuo")
    assert not (tmp_path / "run").exists()


def test_a_run_too_short_to_measure_says_so(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "--data": "{dataset: synthetic-aerial, size: [32, 32], count: 4, crop: [32, 32]}",
        "--teacher": str(teacher),
        "--student": "python:tests.training.runs:build_student",
        "--loss_weights": "auto",
        "--train": "{epochs: 1, batch_size: 2, workers: 0}",
        "--output": str(tmp_path / "run"),
        "--device": "cpu",
    }
    assert main(["distill", *(word for pair in options.items() for word in pair)]) == 0
    assert "loss_weights: auto measures over 20 steps, the run had 2: no term was scaled" in capsys.readouterr().out
