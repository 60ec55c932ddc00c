"""The auxiliary head, and a frozen backbone."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdistill import Distiller, Supervised, TrainConfig, UserError, load_network
from segdistill.methods import AT, KD
from segdistill.networks.network import Network
from segdistill.training.balance import Balance
from segdistill.training.step import Step
from segdistill.training.strategies import launch
from tests.tiny import TinyModel, tiny_network
from tests.training.runs import FAST, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, history_without_times, stop_in
from tests.training.test_step import batches


def learners(auxiliary: float, **options: int) -> list[Distiller | Supervised]:
    """The student alone and distilled, both from the same weights, for images of any size."""
    found: list[Distiller | Supervised] = []
    for kind in (Supervised, Distiller):
        torch.manual_seed(3)
        student = load_network("smp:Linknet:mobilenet_v2", num_classes=5)
        if kind is Supervised:
            found.append(Supervised(student, auxiliary=auxiliary, **options))
        else:
            found.append(Distiller(tiny_network(8, seed=1), student, KD(), auxiliary=auxiliary, **options))
    return found


def test_both_learners_add_the_same_loss() -> None:
    """0.4 times the cross-entropy of the head's scores, at the images' size, of features of padded images."""
    chance = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 3, 50, 70, generator=chance), torch.randint(0, 5, (2, 50, 70), generator=chance)
    labels[:, :20] = 77
    alone, distilled = (learner.eval() for learner in learners(0.4, ignore_index=77))
    assert alone.auxiliary is not None
    for module in alone.modules():  # with the statistics of no image all places would have the same scores
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    alone.train()(images, labels)
    alone.eval()
    distilled.load_state_dict(alone.state_dict())
    padded = torch.cat([images, images[:, :, -1:].expand(-1, -1, 14, -1)], 2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 26)], 3)
    with torch.no_grad():
        scores = alone.auxiliary.head(alone.student.features(padded).stages[-2])
    scores = F.interpolate(scores, size=(64, 96), mode="bilinear")[..., :50, :70]
    assert scores.std((2, 3)).min() > 0.1
    expected = 0.4 * F.cross_entropy(scores, labels, ignore_index=77)
    for learner in (alone, distilled):
        out = learner(images, labels)
        torch.testing.assert_close(out.losses["aux"], expected)
        assert out.loss.item() == pytest.approx(sum(value.item() for value in out.losses.values()), rel=1e-6)
        assert out.logits.shape == (2, 5, 50, 70)
    torch.testing.assert_close(alone(images, labels).losses["task"], distilled(images, labels).losses["task"])
    for learner in learners(0.0, ignore_index=77):
        assert "aux" not in learner(images, labels).losses
        assert not any("auxiliary" in name for name in learner.state_dict())


def test_the_head_learns_and_the_student_has_none_of_it() -> None:
    alone, _ = learners(0.4)
    step = Step(alone.train(), replace(FAST, aux=0.4), 10, fabric=launch("cpu", "fp32"))
    before = {name: value.clone() for name, value in alone.named_parameters() if name.startswith("auxiliary")}
    step(iter([(torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64)))]))
    assert before
    assert all(not torch.equal(dict(alone.named_parameters())[name], value) for name, value in before.items())
    assert step.network.state_dict().keys() == learners(0.0)[0].student.state_dict().keys()


@pytest.mark.parametrize("distilled", [False, True])
def test_a_stopped_run_ends_as_the_unbroken_one(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, distilled: bool
) -> None:
    def make(output: Path, **options: Any) -> Any:
        if distilled:
            return distill_tiny(output, teacher, method="kd", aux=0.4, **options)
        return train_tiny(output, aux=0.4, **options)

    whole = make(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, batch=1)
        with pytest.raises(Killed):
            make(tmp_path / "broken")
    resumed = make(tmp_path / "broken", resume=True)
    assert fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)
    assert "loss/aux" in whole.read_history()[0]


def test_a_network_of_one_stage_has_no_place_for_it() -> None:
    network = Network(TinyModel(4, 8, 5), stages=["layers.3"], embedding="head", logits="classifier")
    with pytest.raises(UserError, match=r"the network names 1 stages, expected 2 or more; leave train.aux at 0"):
        Supervised(network, auxiliary=0.4)


def test_measured_weights_leave_it_alone() -> None:
    distiller = Distiller(tiny_network(8, seed=1), tiny_network(4, seed=2), KD(), auxiliary=0.4)
    balance = Balance()
    for images, labels in batches(1):
        out = distiller(images, labels)
        balance(out.losses, out.features)
    for _ in range(20):
        balance.close_step(lambda value: value)
    assert set(balance.factors or {}) == {"kd"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"aux": -0.4}, "train.aux is -0.4, expected a weight, 0 or more"),
        ({"aux": 0.4, "backbone_lr": 0}, "its loss teaches the backbone, which is frozen"),
    ],
)
def test_bad_values(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        TrainConfig(**values)


def test_a_frozen_backbone_stays_as_it_is() -> None:
    """Weights and batch statistics, bit for bit, in the student and in its average; the head learns."""
    student = load_network("smp:FPN:tu-mobilenetv3_small_050", num_classes=5)
    step = Step(Supervised(student), replace(FAST, backbone_lr=0, ema=0.5), 10, fabric=launch("cpu", "fp32"))
    before = copy.deepcopy(student.state_dict())
    for _ in range(2):
        step.learner.train()
        step(iter([(torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64)))]))
    for network in (student, step.network):
        same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
        assert {name for name in before if ".encoder." in name} <= same
        assert {name for name in before if "running_mean" in name and ".decoder." in name}.isdisjoint(same)
    in_optimiser = {id(value) for group in step.optimizer.param_groups for value in group["params"]}
    trained = {id(value) for name, value in student.named_parameters() if ".encoder." not in name}
    assert in_optimiser == trained
    assert student.model.segmentation_head.training
    assert not any(module.training for module in student.model.encoder.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize("method", [KD(), AT()])
def test_weights_are_measured_beside_a_frozen_backbone(method: Any) -> None:
    """At the embedding alone, where there are gradients; AT compares frozen stages, and has none."""
    distiller = Distiller(tiny_network(8, seed=1), tiny_network(4, seed=2), method)
    step = Step(distiller, replace(FAST, backbone_lr=0), 30, fabric=launch("cpu", "fp32"), balance=Balance())
    for batch in batches(20):
        step(iter([batch]))
    assert set(step.balance.factors or {}) == ({"kd"} if method.name == "kd" else set())
