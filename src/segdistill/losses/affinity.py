"""All-pairs affinity between positions without the N x N matrix (KA, SKD, DRD's spatial relation)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segdistill.losses import _inputs
from segdistill.losses._unit_length import unit_length


def affinity_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the cosine similarities of every pair of positions.

    .. math:: \frac{1}{\sum_b n_b^2} \sum_b \sum_{i, j} (\hat x_i \cdot \hat x_j - \hat t_i \cdot \hat t_j)^2

    with unit-length feature vectors and i, j over the n_b valid positions of image b. He et al., "Knowledge
    Adaptation for Efficient Semantic Segmentation", arXiv 1903.04688; Liu et al., "Structured Knowledge
    Distillation for Semantic Segmentation", arXiv 1903.04197. Student and teacher may have different
    channels.

    With the vectors as columns of S and T, an image's sum is

        ||S'S - T'T||^2 = ||SS'||^2 + ||TT'||^2 - 2 ||ST'||^2,

    O(N C^2) time and O(C^2) memory instead of O(N^2 C) and O(N^2), exactly. Where a map has fewer positions
    than channels, the N x N form is the cheaper one and is taken. There is no second derivative.

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 input); 0 when no position is valid. Equal relations
        give 0 up to rounding, which may fall a hair below 0.

    Raises:
        UserError: a shape or dtype does not fit.

    Example:
        >>> import torch
        >>> features = torch.randn(2, 8, 16, 16)
        >>> same_angles = torch.cat([features.flip(1), torch.zeros(2, 4, 16, 16)], dim=1)
        >>> abs(affinity_mse(student=features, teacher=same_angles).item()) < 1e-6
        True
    """
    student, teacher = _inputs.pair(student, teacher, valid)
    columns_s, columns_t = unit_length(student.flatten(2), dim=1), unit_length(teacher.flatten(2), dim=1)
    batch, _, positions = columns_s.shape
    # Autocast would round the products to half precision, and the differences below are small ones.
    with torch.autocast(columns_s.device.type, enabled=False):
        if positions <= max(columns_s.shape[1], columns_t.shape[1]):
            total = (columns_s.mT @ columns_s - columns_t.mT @ columns_t).square().sum()
        else:
            total = _GramDistance.apply(columns_s, columns_t, valid)
    if valid is None:
        return total / (batch * positions**2)
    pairs = valid.flatten(1).sum(dim=1).to(total.dtype).square().sum()
    return total / pairs.clamp(min=1)


class _GramDistance(torch.autograd.Function):
    """Sum over the batch of ||S'S - T'T||^2; ignored columns are zero, and S and T are overwritten.

    The vectors of real maps, after a ReLU above all, share one direction, so that the three norms are large
    and their difference small. That part is split off first, exactly: with S = m 1' + R, R's columns summing
    to zero,

        S'S - T'T = c 1 1' + 1 d' + d 1' + R_s'R_s - R_t'R_t,
        c = |m_s|^2 - |m_t|^2,   d = R_s'm_s - R_t'm_t,

        ||S'S - T'T||^2 = (n c)^2 + 2 n |d|^2 + ||R_s'R_s - R_t'R_t||^2,

    all mixed terms being products with R 1 = 0. It makes float32 nearly as good as the N x N formula. The
    derivative, 4 S (S'S - T'T), falls apart in the same way.
    """

    @staticmethod
    def forward(ctx: Any, columns_s: Tensor, columns_t: Tensor, valid: Tensor | None) -> Tensor:
        mean_s, rest_s, count = _split_mean(columns_s, valid)
        mean_t, rest_t, _ = _split_mean(columns_t, valid)
        constant = mean_s.square().sum(dim=1, keepdim=True) - mean_t.square().sum(dim=1, keepdim=True)
        linear = mean_s.mT @ rest_s - mean_t.mT @ rest_t
        gram_ss, gram_st = rest_s @ rest_s.mT, rest_s @ rest_t.mT
        if ctx.needs_input_grad[0]:
            gradient = (rest_s @ linear.mT).expand_as(rest_s)
            gradient = torch.baddbmm(gradient, mean_s, count * (constant + linear))
            gradient.baddbmm_(gram_ss, rest_s).baddbmm_(gram_st, rest_t, alpha=-1)
            ctx.save_for_backward(gradient)
        return (
            (count * constant).square().sum()
            + (2 * count * linear.square()).sum()
            + gram_ss.square().sum()
            + (rest_t @ rest_t.mT).square().sum()
            - 2 * gram_st.square().sum()
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (4 * grad_output), None, None


def _split_mean(columns: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean valid column (B, C, 1); what each is beyond it, in place; their number (B, 1, 1)."""
    if valid is None:
        count = columns.new_full((1, 1, 1), columns.shape[2])
        mean = columns.sum(dim=2, keepdim=True) / count
        return mean, columns.sub_(mean), count
    inside = valid.flatten(1).unsqueeze(1)
    count = inside.sum(dim=2, keepdim=True).clamp(min=1).to(columns.dtype)
    mean = columns.sum(dim=2, keepdim=True) / count
    return mean, columns.sub_(mean).mul_(inside), count
