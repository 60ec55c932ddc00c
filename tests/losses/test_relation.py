"""What is special to relations: tiles, and precision where rows or affinities are nearly equal."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segdistill.losses import _tiled_relation, affinity_mse, relation, relation_kl, relation_mse


@pytest.mark.parametrize("loss", [relation_kl, relation_mse])
@pytest.mark.parametrize("limit", [1, 35, 100, 35 * 35, 3 * 35 * 35])
@pytest.mark.parametrize("anchors", [None, 11])
def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch, loss, limit: int, anchors: int | None) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 5, 7, requires_grad=True), torch.randn(5, 9, 5, 7)
    valid = torch.rand(5, 5, 7) < 0.7
    whole = loss(student=student, teacher=teacher, temperature=0.5, valid=valid, anchors=anchors)
    (slope,) = torch.autograd.grad(whole, student)
    monkeypatch.setattr(_tiled_relation, "_TILE_CPU", limit)
    tiled = loss(student=student, teacher=teacher, temperature=0.5, valid=valid, anchors=anchors)
    (tiled_slope,) = torch.autograd.grad(tiled, student)
    torch.testing.assert_close(tiled, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(tiled_slope, slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(("rows", "positions"), [(1, 1), (6, 6), (35, 35), (9, 35)])
@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_tiles_cover_every_row_once_within_the_limit(batch: int, rows: int, positions: int, limit: int) -> None:
    seen = torch.zeros(batch, rows)
    for images, span in _tiled_relation._tiles(batch, rows, positions, limit):
        seen[images, span] += 1
        assert seen[images, span].numel() * positions <= max(limit, positions)
    assert (seen == 1).all()


@pytest.mark.parametrize("include_self", [False, True])
def test_anchors_are_the_rows_of_an_even_grid(include_self: bool) -> None:
    """4 x 6 positions and at most 7 rows: every second row's every second position, 6 of them, in the middle."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6, requires_grad=True), torch.randn(2, 5, 4, 6)
    valid = torch.rand(2, 4, 6) < 0.8
    exact = student.detach().double().requires_grad_()
    divergences = []
    for s, t, inside in zip(exact.flatten(2), teacher.double().flatten(2), valid.flatten(1), strict=True):
        for row in (0, 2, 4, 12, 14, 16):
            others = inside.clone()
            others[row] &= include_self
            if inside[row] and others.any():
                logs = [
                    (F.cosine_similarity(f[:, [row]], f[:, others], dim=0) / 0.2).log_softmax(dim=0) for f in (s, t)
                ]
                divergences.append((logs[1].exp() * (logs[1] - logs[0])).sum())
    expected = 0.04 * torch.stack(divergences).mean()
    value = relation_kl(
        student=student, teacher=teacher, temperature=0.2, valid=valid, include_self=include_self, anchors=7
    )
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(value, student)
    (exact_slope,) = torch.autograd.grad(expected, exact)
    assert (slope - exact_slope).norm() <= 1e-5 * exact_slope.norm()
    assert (slope.abs().sum(dim=1) > 0).flatten(1)[valid.flatten(1)].all(), "positions off the grid learn too"


@pytest.mark.parametrize(("height", "width", "count"), [(1, 1, 1), (7, 9, 1), (1, 1000, 256), (32, 32, 256)])
def test_anchor_grid_keeps_its_promise(height: int, width: int, count: int) -> None:
    grid = relation._even_grid(height, width, count)
    assert 1 <= len(grid) == len(grid.unique()) <= count
    assert 0 <= grid.min() <= grid.max() < height * width
    rows, columns = grid // width, grid % width
    assert abs(rows.min() - (height - 1 - rows.max())) <= 1
    assert abs(columns.min() - (width - 1 - columns.max())) <= 1


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
