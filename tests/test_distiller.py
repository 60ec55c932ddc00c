"""The distiller as a user of plain PyTorch meets it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdistill import Distiller, Supervised, UserError
from segdistill.methods import BRD, KD
from tests.tiny import pair, tiny_network


def test_terms_and_task_loss() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, [BRD(), KD(weight=0.5), KD()])
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    labels[:, :9] = 255
    out = distiller(images, labels)
    assert set(out.terms) == {"task", "brd.boundary", "brd.relation", "brd.kd", "kd", "kd_2"}
    assert out.terms["kd"].item() == pytest.approx(0.5 * out.terms["kd_2"].item())
    expected = F.cross_entropy(out.logits.double(), labels, ignore_index=255)
    assert out.terms["task"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_does_not_count() -> None:
    """An image whose size suits neither network gives the loss of its own pixels."""
    teacher = tiny_network(8, seed=1)
    student = tiny_network(4, seed=2)
    student.multiple, teacher.multiple = 32, 16
    distiller = Distiller(teacher, student, KD())
    out = distiller(torch.rand(1, 3, 50, 70), torch.zeros(1, 50, 70, dtype=torch.long))
    assert out.logits.shape == (1, 5, 50, 70)
    out.loss.backward()


def test_task_loss_of_ones_own() -> None:
    teacher, student = pair()

    def dice_like(*, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
        return logits.sum() * 0 + 7.0

    out = Distiller(teacher, student, [], task_loss=dice_like)(
        torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    )
    assert out.terms["task"] == 7


def test_wrong_arguments_are_told_apart() -> None:
    teacher, student = pair()
    with pytest.raises(UserError, match=r"the teacher is a Conv2d, whose inside is not known; wrap it: Network\("):
        Distiller(nn.Conv2d(3, 3, 1), student, KD())
    with pytest.raises(UserError, match="same module"):
        Distiller(teacher, teacher, KD())
    with pytest.raises(UserError, match="student has 3 classes and the teacher 5"):
        Distiller(teacher, tiny_network(4, classes=3), KD())
    with pytest.raises(UserError, match="teacher takes 3 channels and the student 4"):
        Distiller(teacher, tiny_network(4, in_channels=4), KD())
    with pytest.raises(UserError, match=r"method is <class .*KD'>, expected a method's name"):
        Distiller(teacher, student, KD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown method 'kb': did you mean 'kd'"):
        Distiller(teacher, student, "kb")
    twice = KD()
    with pytest.raises(UserError, match="method holds the same kd object twice"):
        Distiller(teacher, student, [twice, twice])
    with pytest.raises(UserError, match="the teacher is a str, expected a segdistill Network"):
        Distiller("vit", student, KD())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"labels have shape \(1, 16, 16\), expected \(1, 32, 32\)"):
        Distiller(teacher, student, KD())(torch.rand(1, 3, 32, 32), torch.zeros(1, 16, 16, dtype=torch.long))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("kd", {"kd": 1.0}),
        ({"kd": {"weight": 2.0}}, {"kd": 2.0}),
        (["kd", {"kd": {"weight": 3.0}}, KD(weight=4.0)], {"kd": 1.0, "kd_2": 3.0, "kd_3": 4.0}),
    ],
)
def test_methods_as_a_recipe_writes_them(method: Any, weights: dict[str, float]) -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, method)
    assert {name: one.weight for name, one in distiller.methods.items()} == weights
    images = torch.rand(1, 3, 32, 32)
    plain = Distiller(teacher, student, KD())(images).terms["kd"]
    terms = distiller(images).terms
    assert terms.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(terms[name], weight * plain)


def test_labels_outside_the_classes() -> None:
    teacher, student = pair()
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 0, :3] = torch.tensor([7, -1, 255])
    with pytest.raises(UserError, match=r"labels hold the values \[-1, 7\], expected 0 to 4, or 255"):
        Distiller(teacher, student, KD())(torch.rand(1, 3, 32, 32), labels)


def test_supervised_is_the_task_loss_alone() -> None:
    student = tiny_network(4)
    out = Supervised(student)(torch.rand(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32)))
    assert set(out.terms) == {"task"}
    assert out.loss is out.losses["task"]


def test_terms_are_for_logging_and_losses_have_gradients() -> None:
    teacher, student = pair()
    out = Distiller(teacher, student, [BRD(), KD()])(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = {name: float(value) for name, value in out.terms.items()}
    assert values == {name: value.item() for name, value in out.losses.items()}
    assert all(value.requires_grad for value in out.losses.values())
    assert sum(values.values()) == pytest.approx(out.loss.item(), rel=1e-6)


def test_without_labels_and_methods_the_loss_is_nothing_and_has_a_gradient() -> None:
    teacher, student = pair()
    out = Distiller(teacher, student, [])(torch.rand(1, 3, 32, 32))
    assert out.losses == {}
    assert out.loss.item() == 0
    out.loss.backward()
    assert all((parameter.grad == 0).all() for parameter in student.parameters() if parameter.grad is not None)
    assert student.model.classifier.weight.grad is not None


def test_ignored_is_one_of_two_words() -> None:
    with pytest.raises(UserError, match="ignored is 'keep', expected 'skip' or 'distil'"):
        Distiller(*pair(), KD(), ignored="keep")  # type: ignore[arg-type]


def test_other_ignore_labels_and_features_of_the_student() -> None:
    """Nothing but the label named ignore is left out, in both learners; only the distiller records features."""
    teacher, student = pair()
    images = torch.rand(1, 3, 32, 32)
    labels = torch.randint(0, 5, (1, 32, 32), generator=torch.Generator().manual_seed(0))
    labels[0, :20] = 77
    for learner in (Distiller(teacher, student, [], ignore_index=77), Supervised(student, ignore_index=77)):
        out = learner(images, labels)
        torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels, ignore_index=77))
        assert (out.features is None) == isinstance(learner, Supervised)
        with pytest.raises(UserError, match=r"labels hold the values \[5\], expected 0 to 4"):
            learner(images, torch.full_like(labels, 5))
        with pytest.raises(UserError, match=r"labels have shape \(1, 32, 32, 1\)"):
            learner(images, labels[..., None])


def test_a_supervised_students_own_loss() -> None:
    _, student = pair()

    def constant(*, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
        return logits.sum() * 0 + ignore_index

    out = Supervised(student, task_loss=constant, ignore_index=9)(
        torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32).long()
    )
    assert out.loss == 9
