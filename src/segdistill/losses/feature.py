"""Distances between two feature maps, position by position (FitNets, and plain feature distillation)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_pixels
from segdistill.losses._standardised import standardised
from segdistill.losses._unit_length import unit_length


def feature_mse(
    *,
    student: Tensor,
    teacher: Tensor,
    standardise: Literal["channel", "position"] | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of two feature maps, as they are or standardised.

    .. math:: \frac{1}{|V|} \sum_{i \in V} \frac{1}{C} \sum_c (x_{ic} - t_{ic})^2

    Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550 (there 1/2 times the sum, not the mean).
    With ``standardise`` both maps are brought to mean 0 and variance 1 first: each channel over the valid positions of
    its image, after which the value is 2 (1 - Pearson correlation), mean over channels (Cao et al., "PKD",
    arXiv 2207.02039, which takes the statistics over the batch); or each position over its channels. The value then
    depends neither on the teacher's scale nor on its shift. What is constant becomes 0 and receives no gradient.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: features (B, C, H, W); receives no gradient.
        standardise: ``"channel"``, ``"position"`` or ``None``.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or ``standardise`` is none of the three.

    Example:
        >>> import torch
        >>> features = torch.randn(2, 8, 16, 16)
        >>> feature_mse(student=5 * features - 3, teacher=features, standardise="channel").item() < 1e-6
        True
    """
    if standardise is None:
        difference = _inputs.difference(student, teacher, valid, weights_allowed=True)
    else:
        student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
        if standardise == "channel":
            inside = None if valid is None else (valid > 0).flatten(1).unsqueeze(1)
            scaled = [standardised(maps.flatten(2), dim=2, inside=inside).view_as(maps) for maps in (student, teacher)]
        elif standardise == "position":
            scaled = [standardised(student, dim=1), standardised(teacher, dim=1)]
        else:
            raise UserError(f"standardise is {standardise!r}, expected 'channel', 'position' or None")
        difference = scaled[0] - scaled[1]
    return mean_over_pixels(difference.square().mean(dim=1), valid)


def feature_cosine(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""One minus the cosine of the two feature vectors at each position, mean over positions.

    .. math:: \frac{1}{|V|} \sum_{i \in V} (1 - \hat x_i \cdot \hat t_i)

    A position where either vector is zero has the cosine 0 and no gradient.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: features (B, C, H, W); receives no gradient.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all.

    Returns:
        Scalar in [0, 2], float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
    return mean_over_pixels(1 - (unit_length(student, dim=1) * unit_length(teacher, dim=1)).sum(dim=1), valid)
