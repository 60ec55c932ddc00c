"""Attention maps: where a network's features are strong (AT)."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length


def attention_map(features: Tensor) -> Tensor:
    r"""Energy of the features at each position, the mean over channels of their square.

    Args:
        features: (B, C, H, W), any floating dtype.

    Returns:
        (B, H, W), >= 0, float32 (float64 for float64 input).

    Raises:
        UserError: the shape or dtype does not fit.

    Example:
        >>> import torch
        >>> attention_map(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).item()
        12.5
    """
    _inputs.check_features("features", features)
    features = _inputs.at_least_float32(features)
    return (features * features).mean(dim=1)  # its gradient takes one pass less than that of `square`


def attention_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of two attention maps, each scaled to unit length over its image's valid positions.

    .. math:: \sum_{i \in V} \Big( \frac{a(x)_i}{\|a(x)\|_2} - \frac{a(t)_i}{\|a(t)\|_2} \Big)^2,
        \qquad a(F)_i = \frac{1}{C} \sum_c F_{ic}^2

    per image, then the mean over the images that have a valid position. Zagoruyko and Komodakis, "Paying More
    Attention to Attention", arXiv 1612.03928. The sum over positions does not depend on their number N, since both
    maps have unit length; the authors' code and its ports take the mean over positions, which is 1/N of it. Student
    and teacher may have different channels. Features that are zero everywhere receive no gradient.

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 2], float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid)
    maps_s, maps_t = (unit_length(attention_map(maps).flatten(1), dim=1) for maps in (student, teacher))
    return mean_over_images((maps_s - maps_t).square().sum(dim=1), valid)
