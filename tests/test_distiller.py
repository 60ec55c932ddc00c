"""The distiller as a user of plain PyTorch meets it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdistill import Distiller, Supervised, UserError
from segdistill.methods import BRD, KA, KD
from tests.tiny import tiny_network


def pair(**options: int) -> tuple[object, object]:
    return tiny_network(8, seed=1, **options), tiny_network(4, seed=2, **options)


def test_teacher_cannot_be_woken() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    distiller.train()
    before = copy.deepcopy(teacher.state_dict())
    teacher.train()  # what a careless loop may do
    distiller(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    assert not teacher.training
    assert student.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_teacher_is_in_neither_parameters_nor_state() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    of_teacher = {id(parameter) for parameter in teacher.parameters()}
    assert not of_teacher & {id(parameter) for parameter in distiller.parameters()}
    assert set(distiller.state_dict()) == {f"student.{key}" for key in student.state_dict()}


def test_teacher_moves_along() -> None:
    teacher, student = pair()
    Distiller(teacher, student, KD()).to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_refused(value: float) -> None:
    teacher, student = pair()
    with torch.no_grad():
        teacher.model.classifier.bias[2] = value
    distiller = Distiller(teacher, student, KD())
    with pytest.raises(UserError, match="the teacher's logits hold NaN or infinite values"):
        distiller(torch.rand(2, 3, 64, 64))


def test_ka_needs_its_pre_stage() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KA())
    with pytest.raises(UserError, match=r"call distiller.prepare\(batches\) first"):
        distiller(torch.rand(1, 3, 64, 64))


def test_wrong_arguments_are_told_apart() -> None:
    teacher, student = pair()
    with pytest.raises(UserError, match=r"the teacher is a Conv2d, expected a segdistill Network"):
        Distiller(nn.Conv2d(3, 3, 1), student, KD())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="same module"):
        Distiller(teacher, teacher, KD())
    with pytest.raises(UserError, match="student has 3 classes and the teacher 5"):
        Distiller(teacher, tiny_network(4, classes=3), KD())
    with pytest.raises(UserError, match="teacher takes 3 channels and the student 4"):
        Distiller(teacher, tiny_network(4, in_channels=4), KD())
    with pytest.raises(UserError, match="expected segdistill methods"):
        Distiller(teacher, student, ["kd"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="expected segdistill methods"):
        Distiller(teacher, student, KD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="method is 'kd', expected segdistill methods"):
        Distiller(teacher, student, "kd")  # type: ignore[arg-type]
    twice = KD()
    with pytest.raises(UserError, match="the same kd stands twice"):
        Distiller(teacher, student, [twice, twice])
    with pytest.raises(UserError, match=r"labels have shape \(1, 16, 16\), expected \(1, 32, 32\)"):
        Distiller(teacher, student, KD())(torch.rand(1, 3, 32, 32), torch.zeros(1, 16, 16, dtype=torch.long))


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
