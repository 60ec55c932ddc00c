"""What is special to relations: tiles, and precision where rows or affinities are nearly equal."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segdistill.losses import _tiled_relation, affinity_mse, relation_kl, relation_mse


@pytest.mark.parametrize("loss", [relation_kl, relation_mse])
@pytest.mark.parametrize("limit", [1, 35, 100, 35 * 35, 3 * 35 * 35])
def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch, loss, limit: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 5, 7, requires_grad=True), torch.randn(5, 9, 5, 7)
    valid = torch.rand(5, 5, 7) < 0.7
    whole = loss(student=student, teacher=teacher, temperature=0.5, valid=valid)
    (slope,) = torch.autograd.grad(whole, student)
    monkeypatch.setattr(_tiled_relation, "_TILE_CPU", limit)
    tiled = loss(student=student, teacher=teacher, temperature=0.5, valid=valid)
    (tiled_slope,) = torch.autograd.grad(tiled, student)
    torch.testing.assert_close(tiled, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(tiled_slope, slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("positions", [1, 6, 35])
@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_tiles_cover_every_row_once_within_the_limit(batch: int, positions: int, limit: int) -> None:
    seen = torch.zeros(batch, positions)
    for images, rows in _tiled_relation._tiles(batch, positions, limit):
        seen[images, rows] += 1
        assert seen[images, rows].numel() * positions <= max(limit, positions)
    assert (seen == 1).all()


def test_without_gradient_the_value_is_the_same() -> None:
    student, teacher = torch.randn(2, 4, 5, 7), torch.randn(2, 9, 5, 7)
    value = relation_kl(student=student, teacher=teacher)
    assert not value.requires_grad
    assert value == relation_kl(student=student.requires_grad_(), teacher=teacher).detach()


def test_a_sharp_temperature_stays_finite() -> None:
    student, teacher = torch.randn(1, 4, 5, 7, requires_grad=True), torch.randn(1, 9, 5, 7)
    value = relation_kl(student=student, teacher=teacher, temperature=1e-3)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_affinities_of_positive_features_keep_their_precision() -> None:
    """All cosines lie near 0.75: without its mean split off, the float32 Gram identity loses digits here."""
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 32, 24, 24, requires_grad=True), torch.rand(2, 64, 24, 24)
    valid = torch.rand(2, 24, 24) < 0.8
    exact_student = student.detach().double().requires_grad_()
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for s, t, inside in zip(exact_student, teacher.double(), valid, strict=True):
        unit_s, unit_t = F.normalize(s[:, inside], dim=0), F.normalize(t[:, inside], dim=0)
        total = total + (unit_s.T @ unit_s - unit_t.T @ unit_t).square().sum()
        pairs += int(inside.sum()) ** 2
    expected = total / pairs
    (slope,) = torch.autograd.grad(expected, exact_student)
    value = affinity_mse(student=student, teacher=teacher, valid=valid)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(expected.item(), rel=2e-6)
    assert (gradient - slope).norm() <= 1e-5 * slope.norm()
