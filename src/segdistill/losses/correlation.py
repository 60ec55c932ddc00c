"""Correlation of predictions: across classes and across positions (DIST, Huang et al., NeurIPS 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images, mean_over_pixels
from segdistill.losses._standardised import standardised


def class_correlation(
    *, student: Tensor, teacher: Tensor, temperature: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    r"""One minus the correlation of the two class distributions at each position (DIST's inter-class relation).

    .. math:: T^2 \frac{1}{|V|} \sum_{i \in V} \big( 1 - \rho(p^x_i, p^t_i) \big), \qquad
        p_i = \mathrm{softmax}_c (z_i / T)

    with Pearson's correlation over the K classes. Huang et al., "Knowledge Distillation from A Stronger Teacher",
    arXiv 2205.10536, eq. 9. It is computed as half the mean squared difference of the standardised distributions,
    which is the same. Where the student's distribution is uniform the correlation does not exist: the value is 1/2,
    or 0 where the teacher's is uniform too, and there is no gradient.

    Args:
        student: class scores (B, K, H, W), any floating dtype.
        teacher: class scores (B, K, H, W); receives no gradient.
        temperature: T > 0.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all.

    Returns:
        Scalar in [0, 2] T^2, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature is not above 0.
    """
    x, t = _probabilities(student, teacher, temperature, valid, weights_allowed=True)
    difference = standardised(x, dim=1) - standardised(t, dim=1)
    distance = (difference * difference).mean(dim=1) / 2
    return temperature**2 * mean_over_pixels(distance, valid)


def position_correlation(
    *,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    across: Literal["image", "batch"] = "image",
    valid: Tensor | None = None,
) -> Tensor:
    r"""One minus the correlation of the two maps of each class (DIST's intra-class relation).

    .. math:: T^2 \frac{1}{K} \sum_c \big( 1 - \rho(p^x_c, p^t_c) \big)

    with Pearson's correlation over the valid positions of an image, then the mean over images that have one; or over
    those of the whole batch at once, as the authors' code has it, so that the value depends on what else is in the
    batch. Huang et al., arXiv 2205.10536, eq. 10. A class whose probability is the same everywhere is treated as a
    uniform distribution in `class_correlation`.

    Args:
        student: class scores (B, K, H, W), any floating dtype.
        teacher: class scores (B, K, H, W); receives no gradient.
        temperature: T > 0.
        across: ``"image"`` or ``"batch"``.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 2] T^2, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, the temperature is not above 0, or ``across`` is neither.
    """
    x, t = _probabilities(student, teacher, temperature, valid)
    inside = None if valid is None else valid.unsqueeze(1)
    if across == "batch":  # one image with the positions of all
        x, t = (maps.transpose(0, 1).unsqueeze(0) for maps in (x, t))
        inside = None if valid is None else valid[None, None]
    elif across != "image":
        raise UserError(f"across is {across!r}, expected 'image' or 'batch'")
    x, t = x.flatten(2), t.flatten(2)
    inside = None if inside is None else inside.flatten(2)
    count: Tensor | int = x.shape[2]
    if inside is not None:
        x, t, count = x * inside, t * inside, inside.sum(dim=2).clamp(min=1)
    difference = standardised(x, dim=2, inside=inside) - standardised(t, dim=2, inside=inside)
    squares = difference * difference if inside is None else difference * difference * inside
    values = (squares.sum(dim=2) / (2 * count)).mean(dim=1)
    return temperature**2 * mean_over_images(values, None if inside is None else inside.flatten(1))


def _probabilities(
    student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None, *, weights_allowed: bool = False
) -> tuple[Tensor, Tensor]:
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=weights_allowed)
    return torch.softmax(student / temperature, dim=1), torch.softmax(teacher / temperature, dim=1)
