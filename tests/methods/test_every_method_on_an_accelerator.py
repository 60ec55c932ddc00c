"""Every method on a GPU that is not there: nothing stays on the CPU, and the host never waits for a value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from segdistill import Distiller, Network, Supervised
from segdistill.losses import BalancedCrossEntropy
from segdistill.networks.bands import SelectedBands
from segdistill.networks.classes import MappedClasses
from segdistill.networks.ensemble import Ensemble
from tests.accelerator import CUDA, backward, mode, moved
from tests.methods.settings import Setting
from tests.methods.trial import distiller_of, every_setting, network

SIDE = 64


def gradients_of_a_step(learner: Distiller | Supervised) -> dict[Tensor, Tensor]:
    """Of a step that is not the first, which may wait once to look at the teacher."""
    if isinstance(learner, Distiller):
        learner._teacher_checked = True
    for module in learner.modules():
        if hasattr(module, "_ready"):
            module._ready = True
    scale = getattr(learner, "teacher_scale", 1)
    fake = mode()
    moved(learner, fake)
    with fake:
        images = torch.empty(2, learner.student.info.in_channels, SIDE * scale, SIDE * scale, device=CUDA)
        out = learner(images, torch.empty(2, SIDE, SIDE, dtype=torch.long, device=CUDA))
        assert {term.device for term in [out.loss, out.logits, *out.losses.values()]} == {CUDA}
        return backward(out.loss)


def check_all_learn(learner: Distiller | Supervised) -> None:
    gradients = gradients_of_a_step(learner)
    learnt = [weights for weights in learner.parameters() if weights.requires_grad]
    assert len(gradients) == len(learnt) > 0
    assert all(gradients[weights].device == CUDA and gradients[weights].shape == weights.shape for weights in learnt)


@every_setting
def test_a_step_stays_on_the_device(setting: Setting) -> None:
    check_all_learn(distiller_of(setting))


def three_bands() -> Network:
    return SelectedBands(network(width=8, seed=1), [3, 2, 1], in_channels=5)


def other_classes() -> Network:
    return MappedClasses(network(width=8, classes=6, seed=1), {0: "a", 1: "b", 2: "c", 3: "d", 4: "e", 5: "a"}, "abcde")


@pytest.mark.parametrize("teacher", [three_bands, other_classes], ids=["bands", "classes"])
def test_teachers_that_see_or_show_something_else(teacher: Any) -> None:
    shown = teacher()
    check_all_learn(Distiller(shown, network(in_channels=shown.info.in_channels), "kd"))


def test_several_teachers() -> None:
    teachers = [network(width=8, seed=1), network(width=4, stride=16, seed=2)]
    check_all_learn(Distiller(Ensemble(teachers), network(), "kd"))


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_scale": 2},
        {"ignored": "distil"},
        {"unlabelled_index": 254},
        {"task_loss": BalancedCrossEntropy(torch.tensor([5, 4, 3, 2, 1]))},
    ],
    ids=["closer", "ignored", "unlabelled", "balanced"],
)
def test_options_of_a_distiller(options: Any) -> None:
    check_all_learn(Distiller(network(width=8), network(), "auto", **options))


def test_an_auxiliary_head() -> None:
    check_all_learn(Distiller(network(width=8), network(), "kd", auxiliary=0.4))
    check_all_learn(Supervised(network(), auxiliary=0.4))


def test_features_alone() -> None:
    distiller = Distiller(network(width=8), network(), "auto")
    distiller.features_alone = True
    gradients = gradients_of_a_step(distiller)
    assert all(weights in gradients for weights in distiller.student.model.layers.parameters())


def test_a_tensor_left_behind_is_noticed() -> None:
    distiller = Distiller(network(width=8), network(), "kd")
    kept = torch.ones(5)
    distiller.task_loss = lambda *, logits, labels, ignore_index: (logits.mean((0, 2, 3)) * kept).sum()
    with pytest.raises(Exception, match="device"):
        gradients_of_a_step(distiller)


def test_a_wait_is_noticed() -> None:
    distiller = Distiller(network(width=8), network(), "kd")
    distiller.task_loss = lambda *, logits, labels, ignore_index: logits.mean() * logits.max().item()
    with pytest.raises(DataDependentOutputException):
        gradients_of_a_step(distiller)
