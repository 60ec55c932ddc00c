"""Every task loss by name against its formula in plain Python, and what all of them promise of ignored pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import focal_cross_entropy
from segdistill.losses.overlap import Dice, Jaccard, Tversky
from segdistill.recipe.losses import TASK_LOSSES, build_task_loss
from tests.losses.test_task import scene


def task_loss(name: str, classes: int = 4) -> Callable[..., Tensor]:
    return build_task_loss(name, torch.arange(1, classes + 1))


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """(probabilities, class) of every labelled pixel."""
    probabilities = logits.double().softmax(1)
    found = torch.nonzero(labels != 255).tolist()
    return [(probabilities[b, :, y, x].tolist(), int(labels[b, y, x])) for b, y, x in found]


def tversky_of_class(kind: int, every: list[tuple[list[float], int]], alpha: float, beta: float) -> float:
    """0 for a class without a pixel. |p - y| counts as wrong, the rest as right."""
    if all(label != kind for _, label in every):
        return 0.0
    right = sum(p[kind] for p, label in every if label == kind)
    false_positive = sum(p[kind] for p, label in every if label != kind)
    false_negative = sum(1 - p[kind] for p, label in every if label == kind)
    return 1 - right / (right + alpha * false_positive + beta * false_negative)


def lovasz_of_class(kind: int, every: list[tuple[list[float], int]]) -> float:
    """Errors in falling order, each times what it adds to the Jaccard loss of those before it."""
    errors = sorted(((abs((label == kind) - p[kind]), label == kind) for p, label in every), reverse=True)
    total = sum(mine for _, mine in errors)
    value, before, missed, foreign = 0.0, 0.0, 0, 0
    for error, mine in errors:
        missed, foreign = missed + mine, foreign + (not mine)
        jaccard = 1 - (total - missed) / (total + foreign)
        value, before = value + error * (jaccard - before), jaccard
    return value


@pytest.mark.parametrize(
    ("loss", "alpha", "beta", "gamma"),
    [
        (Dice(), 0.5, 0.5, 1),
        (Jaccard(), 1.0, 1.0, 1),
        (Tversky(alpha=0.3, beta=0.7), 0.3, 0.7, 1),
        (Tversky(gamma=1.5), 0.5, 0.5, 1.5),
    ],
)
@pytest.mark.parametrize("absent", [False, True])
def test_overlaps(loss: Any, alpha: float, beta: float, gamma: float, absent: bool) -> None:
    logits, labels = scene()
    if absent:
        labels[labels == 2] = 255
    every = pixels(logits, labels)
    expected = sum(tversky_of_class(kind, every, alpha, beta) for kind in range(4)) / 4
    assert loss(logits=logits, labels=labels).item() == pytest.approx(expected**gamma, rel=1e-5)


@pytest.mark.parametrize("absent", [False, True])
def test_lovasz(absent: bool) -> None:
    logits, labels = scene()
    if absent:
        labels[labels == 2] = 255
    every = pixels(logits, labels)
    present = sorted({label for _, label in every})
    expected = sum(lovasz_of_class(kind, every) for kind in present) / len(present)
    assert task_loss("lovasz")(logits=logits, labels=labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma: float) -> None:
    logits, labels = scene()
    losses = [-math.log(p[label]) * (1 - p[label]) ** gamma for p, label in pixels(logits, labels)]
    value = focal_cross_entropy(logits=logits, labels=labels, gamma=gamma)
    assert value.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


every_loss = pytest.mark.parametrize("name", TASK_LOSSES)


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, **more: Any) -> tuple[float, Any]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits=logits, labels=labels, **more)
    assert value.shape == ()
    assert value.dtype == torch.promote_types(logits.dtype, torch.float32)
    value.backward()
    return value.item(), logits.grad


@every_loss
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_ignored_pixels_change_neither_value_nor_gradient(name: str, ignore_index: int) -> None:
    logits, labels = scene()
    ignored = labels == 255
    if ignore_index == 0:  # then no pixel is of the first class
        labels[labels == 0] = 1
    labels[ignored] = ignore_index
    value, gradient = value_and_gradient(task_loss(name), logits, labels, ignore_index=ignore_index)
    assert value > 0
    assert (gradient.movedim(1, -1)[ignored] == 0).all()
    changed = torch.where(ignored.unsqueeze(1), 1e4 * torch.randn_like(logits), logits)
    again, slopes = value_and_gradient(task_loss(name), changed, labels, ignore_index=ignore_index)
    assert again == value
    assert torch.equal(slopes, gradient)


@pytest.mark.parametrize("name", sorted(TASK_LOSSES.keys() - {"ohem"}))
def test_more_ignored_pixels_leave_the_value(name: str) -> None:
    """A mean over all pixels, the ignored ones among them, would sink. (ohem keeps a share of the labelled pixels.)"""
    logits, labels = scene()
    bigger = torch.cat([logits, torch.randn(2, 4, 9, 7)], 2)
    padded = torch.cat([labels, torch.full((2, 9, 7), 255)], 1)
    expected = task_loss(name)(logits=logits, labels=labels)
    torch.testing.assert_close(task_loss(name)(logits=bigger, labels=padded), expected)


@every_loss
@pytest.mark.parametrize("classes", [1, 4])
def test_nothing_labelled_is_zero(name: str, classes: int) -> None:
    labels = torch.full((2, 5, 7), 255)
    value, gradient = value_and_gradient(task_loss(name, classes), torch.randn(2, classes, 5, 7), labels)
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_one_class_is_always_right(name: str) -> None:
    labels = torch.zeros(2, 5, 7, dtype=torch.uint8)
    labels[0, 0] = 255
    value, gradient = value_and_gradient(task_loss(name, 1), torch.randn(2, 1, 5, 7), labels)
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@every_loss
def test_half_precision_and_peaked_scores(name: str) -> None:
    logits, labels = scene()
    half, _ = value_and_gradient(task_loss(name), logits.bfloat16(), labels)
    same, _ = value_and_gradient(task_loss(name), logits.bfloat16().float(), labels)
    assert half == pytest.approx(same, rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert value_and_gradient(task_loss(name), logits.bfloat16(), labels)[0] == pytest.approx(same, rel=1e-6)
    for scale in (1e4, -1e4):
        value, gradient = value_and_gradient(task_loss(name), scale * logits, labels)
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


@every_loss
def test_gradients(name: str) -> None:
    logits, labels = scene()
    loss = task_loss(name)
    scores = logits.double().requires_grad_()
    steps = {"eps": 1e-2, "atol": 1e-3} if name == "lovasz" else {"eps": 1e-6, "atol": 1e-6}  # lovasz is of float32
    assert torch.autograd.gradcheck(lambda given: loss(logits=given, labels=labels), scores, **steps)


@every_loss
def test_what_does_not_fit_is_told(name: str) -> None:
    logits, labels = scene()
    with pytest.raises(UserError, match=r"labels has shape \(2, 5, 6\), expected \(2, 5, 7\)"):
        task_loss(name)(logits=logits, labels=labels[..., :6])


@pytest.mark.parametrize("arguments", [{"alpha": -1.0}, {"beta": math.nan}, {"gamma": 0.5}, {"smooth": math.inf}])
def test_ranges_are_told(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"train.loss tversky: {next(iter(arguments))} is "):
        build_task_loss({"tversky": arguments}, None)
    with pytest.raises(UserError, match="gamma is -1"):
        focal_cross_entropy(logits=scene()[0], labels=scene()[1], gamma=-1)


def test_class_weights_from_a_recipe() -> None:
    logits, labels = scene()
    weights = [1.0, 0.0, 2.5, 0.3]
    found = build_task_loss({"ce": {"class_weights": weights}}, torch.ones(4))(logits=logits, labels=labels)
    every = pixels(logits, labels)
    total = sum(weights[label] for _, label in every)
    expected = sum(-weights[label] * math.log(p[label]) for p, label in every) / total
    assert found.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"class_weights: expected .*list.*, found 3"):
        build_task_loss({"ce": {"class_weights": 3}}, torch.ones(4))
