"""Every method alone, from features of our own: what its value and its gradients may depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, UserError
from segdistill.networks.features import NetworkInfo
from tests.methods.settings import SETTINGS, Setting
from tests.methods.trial import (
    batch,
    case_of,
    changed,
    every_setting,
    leaves,
    method_terms,
    network,
    value_and_gradients,
)

#: Filters pass over the teacher's features as well, so that those of ignored pixels reach others.
FILTERED = {"ka", "brd"}


@every_setting
def test_value_holds_at_another_crop_size(setting: Setting) -> None:
    """A weight tuned at one crop size holds at another: four copies of a scene cost what one costs.

    Exactly so for most; filters see other neighbours at the seams, and a relation's row has more than four times the
    others.
    """
    if setting.resized is None:
        return
    one = case_of(setting, side=256 if setting.resized > 1e-3 else 64)
    tile = lambda maps: maps.repeat(1, 1, 2, 2)  # noqa: E731
    four = one.terms(
        student=changed(one.student, tile),
        teacher=changed(one.teacher, tile),
        labels=one.labels.repeat(1, 2, 2),
        valid=one.valid.repeat(1, 2, 2),
    )
    for name, term in one.terms().items():
        assert four[name].item() == pytest.approx(term.item(), rel=setting.resized), name


@every_setting
def test_value_holds_at_another_batch_size(setting: Setting) -> None:
    """A batch twice over costs what it costs once; and it is the mean of its images, unless they are related."""
    case = case_of(setting)
    twice = case.terms(
        student=changed(case.student, lambda maps: torch.cat([maps, maps])),
        teacher=changed(case.teacher, lambda maps: torch.cat([maps, maps])),
        labels=torch.cat([case.labels, case.labels]),
        valid=torch.cat([case.valid, case.valid]),
    )
    if not setting.random:
        for name, term in case.terms().items():
            assert twice[name].item() == pytest.approx(term.item(), rel=0.05 if setting.across_batch else 1e-5), name
    if not setting.across_batch and not setting.random and "balance" not in setting.options:
        single = [
            case.value(
                student=changed(case.student, lambda maps, i=i: maps[i : i + 1]),
                teacher=changed(case.teacher, lambda maps, i=i: maps[i : i + 1]),
                labels=case.labels[i : i + 1],
                valid=case.valid[i : i + 1],
            ).item()
            for i in range(2)
        ]
        assert case.value().item() == pytest.approx(sum(single) / 2, rel=1e-5)


@every_setting
def test_equal_features_cost_nothing_where_no_adapter_stands_between(setting: Setting) -> None:
    if setting.zero_when_equal:
        distiller = Distiller(network(seed=3), network(seed=3), setting.make()).eval()
        distiller.prepare([batch()[0]])
        assert all(abs(term.item()) < 1e-4 for term in method_terms(distiller(*batch())).values())


@every_setting
def test_what_stands_at_ignored_pixels_does_not_matter(setting: Setting) -> None:
    case = case_of(setting)
    case.valid[0, :32] = False  # whole positions of every stride
    case.valid[1, 32:, 32:] = False
    value, gradients = value_and_gradients(case, case.student)

    def spoilt(maps: Tensor, rubbish: float) -> Tensor:
        step = 64 // maps.shape[-1]
        return maps.masked_fill(~case.valid[:, None, ::step, ::step], rubbish)

    if not setting.neighbours:
        # An adapter's weight has no gradient but NaN where NaN stands in its input: a large number it is.
        other, slopes = value_and_gradients(
            case,
            changed(case.student, lambda maps: spoilt(maps, 1e3)),
            teacher=changed(case.teacher, lambda maps: spoilt(maps, -1e3)),
            labels=case.labels.masked_fill(~case.valid, 255),
        )
        assert other == pytest.approx(value, rel=1e-5)
        for gradient, slope in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(slope, gradient, rtol=1e-3, atol=1e-5)
    student, inputs = leaves(case.student)
    case.value(student=student).backward()
    assert any(maps.grad is not None and maps.grad.abs().sum() > 0 for maps in inputs)
    if not setting.neighbours:
        assert all((spoilt(maps.grad, 0.0) == maps.grad).all() for maps in inputs if maps.grad is not None)


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.name not in FILTERED], ids=str)
def test_what_the_teacher_shows_at_ignored_pixels_does_not_matter(setting: Setting) -> None:
    """Also where the student's features reach other positions, by a convolution or as the largest of a window."""
    case = case_of(setting)
    case.valid[0, :32] = False
    case.valid[1, 32:, 32:] = False

    def spoilt(maps: Tensor) -> Tensor:
        step = 64 // maps.shape[-1]
        return maps.masked_fill(~case.valid[:, None, ::step, ::step], 1e3)

    for name, term in case.terms(teacher=changed(case.teacher, spoilt)).items():
        assert term.item() == pytest.approx(case.terms()[name].item(), rel=1e-5)


@every_setting
def test_the_teacher_gets_no_gradient(setting: Setting) -> None:
    case = case_of(setting)
    teacher, inputs = leaves(case.teacher)
    case.value(teacher=teacher, student=leaves(case.student)[0]).backward()
    assert all(maps.grad is None for maps in inputs)


@every_setting
def test_memory_layout_does_not_matter(setting: Setting) -> None:
    case = case_of(setting)
    value, gradients = value_and_gradients(case, case.student)
    relaid = lambda maps: maps.to(memory_format=torch.channels_last)  # noqa: E731
    other, slopes = value_and_gradients(case, changed(case.student, relaid), teacher=changed(case.teacher, relaid))
    assert other == pytest.approx(value, rel=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(slope, gradient, rtol=1e-3, atol=1e-6)


@every_setting
@pytest.mark.parametrize("kind", ["peaked", "constant", "zero", "zero student", "half a million"])
def test_extreme_features_stay_finite(setting: Setting, kind: str) -> None:
    case = case_of(setting)
    change: Callable[[Tensor], Tensor] = {
        "peaked": lambda maps: 1e4 * maps,
        "constant": lambda maps: torch.full_like(maps, 3.1),
        "half a million": lambda maps: maps + 5e5,
    }.get(kind, torch.zeros_like)
    student = changed(case.student, change)
    teacher = case.teacher if kind == "zero student" else changed(case.teacher, change)
    value, gradients = value_and_gradients(case, student, teacher=teacher)
    assert torch.isfinite(torch.tensor(value))
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_setting
def test_networks_that_do_not_fit_are_refused(setting: Setting) -> None:
    student, teacher = network(width=4, classes=5).info, network(width=8, classes=3).info
    method = setting.make()
    if method.needs_logits:
        with pytest.raises(UserError, match=f"method {setting.name} .*the student has 5 classes and the teacher 3"):
            method.build(student, teacher)
    else:
        method.build(student, teacher)
    bare = dataclasses.replace(student, stages=())
    equal: NetworkInfo = dataclasses.replace(teacher, num_classes=5)
    method = setting.make()
    if method.needs_stages:
        with pytest.raises(UserError, match=f"method {setting.name} .*the student has 0 .*the teacher 4"):
            method.build(bare, equal)
    else:
        method.build(bare, equal)


@every_setting
def test_needs_are_what_the_gradient_reaches(setting: Setting) -> None:
    case = case_of(setting)
    student, inputs = leaves(case.student)
    case.value(student=student).backward()
    *stages, embedding, logits = (maps.grad is not None and bool(maps.grad.abs().sum() > 0) for maps in inputs)
    method = case.method
    assert (any(stages), embedding, logits) == (method.needs_stages, method.needs_embedding, method.needs_logits)
