"""A loss that becomes NaN stops the run, is named, and spoils nothing that was good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import RunFolder, UserError, load_run
from segdistill.methods import KD
from segdistill.training.loop import STEPS_BETWEEN_LOOKS
from segdistill.training.step import Step, Terms
from tests.training.runs import SCENES, distill_tiny, fingerprint, train_tiny


def poison_kd(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> list[int]:
    """From that step on KD's term is ``value``; returns the list of the steps that were run."""
    forward = KD.forward
    steps: list[int] = []

    def poisoned(self: KD, **views: Any) -> dict[str, torch.Tensor]:
        steps.append(len(steps))
        terms = forward(self, **views)
        return {name: term * value if len(steps) > step else term for name, term in terms.items()}

    monkeypatch.setattr(KD, "forward", poisoned)
    return steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_term_is_named_and_the_last_good_epoch_stays(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    good = distill_tiny(tmp_path / "run", teacher, method=["brd", "kd"], epochs=3)
    history = good.read_history()
    with monkeypatch.context() as patch:
        poison_kd(patch, step=4, value=value)  # two steps an epoch: the first step of the third
        with pytest.raises(UserError) as error:
            distill_tiny(tmp_path / "bad", teacher, method=["brd", "kd"], epochs=3)
    assert "the loss became NaN or infinite in epoch 3, first in the term kd; " in str(error.value)
    bad = RunFolder(tmp_path / "bad")
    assert bad.read_metrics() is None
    assert [row["loss/kd"] for row in bad.read_history()] == [row["loss/kd"] for row in history[:2]]
    network = load_run(bad.path)
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
    # The checkpoint is good too: without the poison the run goes on to its end.
    assert fingerprint(distill_tiny(bad.path, teacher, method=["brd", "kd"], epochs=3, resume=True)) == fingerprint(
        good
    )


def test_it_does_not_wait_for_the_end_of_a_long_epoch(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = poison_kd(monkeypatch, step=3, value=float("nan"))
    with pytest.raises(UserError, match="first in the term kd"):
        distill_tiny(tmp_path / "run", teacher, method="kd", epochs=1, batch_size=1, data=SCENES | {"count": 30})
    assert len(steps) == STEPS_BETWEEN_LOOKS


def test_weights_that_the_last_step_broke_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the last step is that of the weights before it."""
    step = Step.__call__

    def breaking(self: Step, batches: Any) -> list[Terms]:
        parts = step(self, batches)
        if self.number == 4:
            next(self.learner.parameters()).data.fill_(float("nan"))
        return parts

    monkeypatch.setattr(Step, "__call__", breaking)
    with pytest.raises(UserError, match=r"the weights became NaN or infinite in epoch 2, at its end"):
        train_tiny(tmp_path / "run", epochs=2, schedule="constant", warmup=0.0)
    assert all(bool(torch.isfinite(value).all()) for value in load_run(tmp_path / "run").state_dict().values())
    assert len(RunFolder(tmp_path / "run").read_history()) == 1


def test_a_rate_that_is_far_too_high(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"became NaN or infinite in epoch \d+, .* Try a lower train.lr"):
        train_tiny(tmp_path / "run", lr=1e30, optimizer="sgd", epochs=4)
