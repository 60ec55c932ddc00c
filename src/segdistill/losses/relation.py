"""Row-softmax self-relations of positions (BRD, CIRKD; DRD's self-attention variant)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._tiled_relation import RowLoss, tiled_relation
from segdistill.losses._unit_length import unit_length


def relation_kl(
    *,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    include_self: bool = False,
    anchors: int | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence between the rows of the two softmaxed self-relation matrices.

    .. math:: \tau^2 \frac{1}{|V|} \sum_{i \in V} \sum_j P^t_{ij} \log \frac{P^t_{ij}}{P^x_{ij}},
        \qquad P_{ij} = \mathrm{softmax}_j (\hat f_i \cdot \hat f_j / \tau)

    with unit-length feature vectors and j over all *other* valid positions of the same image. Zhang et al.,
    "Boundary and Relation Distillation for Semantic Segmentation", arXiv 2401.13174; the published code of
    CIRKD (Yang et al., arXiv 2204.06986) keeps j = i, as ``include_self=True`` does. A position with no other
    valid one contributes 0. Student and teacher may have different channels. Memory is O(N), never O(N^2);
    there is no second derivative. All rows cost O(N^2 C) time; with ``anchors`` only the rows of some i, on an
    even grid, are compared, each with all j, so that every position still gets a gradient and time is O(N C).

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.
        include_self: whether a position's similarity to itself is part of its row.
        anchors: at most how many rows of an image are compared, 1 or more; ``None`` for all.

    Returns:
        Scalar, float32 (float64 for float64 input); 0 when no position is valid. Equal relations give 0 up to
        rounding, which may fall a hair below 0.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature or ``anchors`` is not above 0.

    Example:
        >>> import torch
        >>> features = torch.randn(1, 8, 16, 16)
        >>> relation_kl(student=features, teacher=3 * features, temperature=0.1).item() < 1e-6
        True
    """
    loss = _row_softmax_relation(student, teacher, temperature, valid, include_self, anchors, _kl_rows)
    return temperature**2 * loss


def relation_mse(
    *,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    include_self: bool = False,
    anchors: int | None = None,
) -> Tensor:
    r"""Squared distance between the rows of the two softmaxed self-relation matrices.

    .. math:: \frac{1}{|V|} \sum_{i \in V} \sum_j (P^x_{ij} - P^t_{ij})^2

    with P as in `relation_kl`: the self-attention maps of Li et al., "Building Lightweight Semantic
    Segmentation Models for Aerial Images Using Dual Relation Distillation", arXiv 2506.20688. A row's
    probabilities sum to 1, so that for the same picture at four times the positions this value is a quarter:
    weigh it accordingly.

    Arguments, result and errors are those of `relation_kl`.
    """
    return _row_softmax_relation(student, teacher, temperature, valid, include_self, anchors, _squared_rows)


def _row_softmax_relation(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    valid: Tensor | None,
    include_self: bool,
    anchors: int | None,
    row_loss: RowLoss,
) -> Tensor:
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid)
    rows = None
    if anchors is not None:
        _inputs.check_positive("anchors", anchors)
        rows = _even_grid(student.shape[-2], student.shape[-1], anchors).to(student.device, non_blocking=True)
    return tiled_relation(
        unit_length(student.flatten(2), dim=1).mT.contiguous(),
        unit_length(teacher.flatten(2), dim=1).mT.contiguous(),
        None if valid is None else valid.flatten(1),
        rows,
        temperature,
        include_self,
        row_loss,
    )


def _even_grid(height: int, width: int, count: int) -> Tensor:
    """Flat indices of every n-th row's every n-th position, n the least that gives at most ``count`` of them.

    The grid is centred: a map's edges are as far from it on both sides.
    """
    step = max(1, math.ceil(math.sqrt(height * width / count)))
    while len(range(0, height, step)) * len(range(0, width, step)) > count:
        step += 1
    rows = torch.arange((height - 1) % step // 2, height, step)
    columns = torch.arange((width - 1) % step // 2, width, step)
    return (rows[:, None] * width + columns).flatten()


def _kl_rows(log_student: Tensor, log_teacher: Tensor, scratch: Tensor) -> Tensor:
    """KL of each row, and P_s - P_t.

    Both rows sum to 1, so that adding sum(P_s - P_t) changes nothing but rounding: an error in a row's
    log-sum-exp, as large as the divergence of two similar rows, cancels to first order.
    """
    teacher = torch.exp(log_teacher, out=scratch)
    losses = log_teacher.sub_(log_student).mul_(teacher).sum(dim=2)
    slope = log_student.exp_().sub_(teacher)
    return losses + slope.sum(dim=2)


def _squared_rows(log_student: Tensor, log_teacher: Tensor, scratch: Tensor) -> Tensor:
    """Squared distance of each row, and its derivative P_s (g - sum(g P_s)) with g = 2 (P_s - P_t)."""
    student = log_student.exp_()
    difference = log_teacher.exp_().neg_().add_(student)
    losses = difference.square().sum(dim=2)
    weighted = torch.mul(difference, student, out=scratch)
    student.mul_(weighted.sum(dim=2, keepdim=True)).neg_().add_(weighted).mul_(2)
    return losses
