"""The distiller's teacher: frozen, never awake, in no state, and checked."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from segdistill import Distiller, UserError
from segdistill.methods import KD
from tests.tiny import pair, tiny_network


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_refused(value: float) -> None:
    teacher, student = pair()
    with torch.no_grad():
        teacher.model.classifier.bias[2] = value
    distiller = Distiller(teacher, student, KD())
    with pytest.raises(UserError, match="the teacher's logits hold NaN or infinite values"):
        distiller(torch.rand(2, 3, 64, 64))


def test_on_an_accelerator_the_teacher_is_checked_once() -> None:
    """Meta tensors stand for it: they have no values, so that to read one is an error."""
    distiller = Distiller(*pair(), KD())
    elsewhere = {"logits": torch.ones(1, device="meta")}
    with pytest.raises(RuntimeError, match="meta"):
        distiller._check_teacher(elsewhere)
    distiller._check_teacher({"logits": torch.ones(1)})
    distiller._check_teacher(elsewhere)


def test_a_teacher_of_one_size_gets_no_other() -> None:
    teacher, student = pair()
    teacher.info = dataclasses.replace(teacher.info, size=(64, 96))
    distiller = Distiller(teacher, student, KD())
    assert distiller.teacher_outputs(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="64 x 96 pixels, but these are 96 x 64"):
        distiller.teacher_outputs(torch.rand(1, 3, 96, 64))
    with pytest.raises(UserError, match="64 x 96 pixels, but these are 96 x 64"):
        distiller(torch.rand(1, 3, 96, 64))
    closer = Distiller(teacher, student, KD(), teacher_scale=2)
    assert closer.teacher_outputs(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="32 x 48 pixels, but these are 48 x 32;"):
        closer.teacher_outputs(torch.rand(1, 3, 96, 64))


def test_the_teacher_is_frozen_from_the_start() -> None:
    teacher, student = pair()
    teacher.train()
    Distiller(teacher, student, KD())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_teacher_that_breaks_later_is_noticed_too() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    distiller(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        teacher.model.classifier.bias[2] = float("nan")
    with pytest.raises(UserError, match="hold NaN"):
        distiller(torch.rand(1, 3, 32, 32))


class Unloaded:
    """A source whose teacher is not there: batches bring its outputs."""

    network = None
    multiple = 64

    def __init__(self) -> None:
        self.info = tiny_network(8, seed=1).info


def test_a_source_without_its_network() -> None:
    distiller = Distiller(Unloaded(), tiny_network(4, seed=2), KD()).to(torch.float32)
    assert distiller.teacher is None
    assert distiller.multiple == 64
    images = torch.rand(1, 3, 40, 40)
    with pytest.raises(UserError, match="the teacher is not loaded: pass teacher_outputs"):
        distiller(images)
    with pytest.raises(UserError, match="the teacher is not loaded"):
        distiller.teacher_outputs(images)
    teacher = tiny_network(8, seed=1)
    teacher.multiple = 64
    whole = Distiller(teacher, distiller.student, KD())
    kept = whole.teacher_outputs(images)
    torch.testing.assert_close(distiller(images, None, kept).loss, whole(images).loss)
