"""How attention changes from one place of a network to another (DSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length

# Two maps of unit length that differ by less are equal up to rounding: there is no residual to scale up.
_EQUAL = 1e-6


def residual_attention_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of residual attention maps: normalised differences of every two places' attention.

    .. math:: \frac{2}{L (L - 1)} \sum_{m < n} \Big\| \widehat{\hat a(x)_n - \hat a(x)_m} -
        \widehat{\hat a(t)_n - \hat a(t)_m} \Big\|_2^2

    where a hat scales a map to unit length over its image's valid positions, and the L channels are the attention
    maps of L places; then the mean over the images that have a valid position. Feng et al., "Double Similarity
    Distillation for Semantic Image Segmentation", IEEE TIP 2021. The sum over positions does not depend on their
    number N; CIRKD's port takes the mean, which is 1/N of it.

    Args:
        student: attention maps (B, L, H, W), L at least 2, any floating dtype; see `attention_map`.
        teacher: the same of the teacher; receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    places = student.shape[1]
    if places < 2:
        raise UserError(f"student has shape {tuple(student.shape)}, expected the maps of at least 2 places")
    later, earlier = torch.tril_indices(places, places, -1, device=student.device)
    residuals = []
    for maps in (student, teacher):
        scaled = unit_length(maps.flatten(2), dim=2)
        residuals.append(unit_length(scaled[:, later] - scaled[:, earlier], dim=2, shortest=_EQUAL))
    return mean_over_images((residuals[0] - residuals[1]).square().sum(dim=2).mean(dim=1), valid)
