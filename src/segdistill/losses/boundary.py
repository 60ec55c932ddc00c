"""Object boundaries in feature maps, and their distance (BRD)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError, unknown_name
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length

BoundaryOperator = Literal["pool", "laplacian", "sobel"]


def boundary_map(features: Tensor, operator: BoundaryOperator = "pool") -> Tensor:
    r"""How much features change around each position: the mean over channels of a squared difference.

    ``pool``: F minus its 3x3 average (at the border, of the neighbours that exist); ``laplacian``: the sum of
    the four neighbours minus 4 F; ``sobel``: the squared length of the 3x3 Sobel gradient. The latter two
    repeat the border. For Zhang et al., "Boundary and Relation Distillation for Semantic Segmentation", arXiv
    2401.13174, ``pool`` is this library's reading.

    Args:
        features: (B, C, H, W), any floating dtype.
        operator: ``"pool"``, ``"laplacian"`` or ``"sobel"``.

    Returns:
        (B, H, W), >= 0, float32 (float64 for float64 input).

    Raises:
        UserError: the shape or dtype does not fit, or the operator is unknown.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 1, 3, 6)
        >>> image[..., 3:] = 9.0
        >>> boundary_map(image)[0, 1].tolist()
        [0.0, 0.0, 9.0, 9.0, 0.0, 0.0]
    """
    _inputs.check_features("features", features)
    features = _inputs.at_least_float32(features)
    if operator == "pool":
        smooth = F.avg_pool2d(features, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return (features - smooth).square().mean(dim=1)
    if operator == "laplacian":
        padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
        vertical = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
        horizontal = padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
        return (vertical + horizontal - 4 * features).square().mean(dim=1)
    if operator == "sobel":
        padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
        columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
        rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
        across, down = columns[..., 2:] - columns[..., :-2], rows[:, :, 2:] - rows[:, :, :-2]
        return (across.square() + down.square()).mean(dim=1)
    raise unknown_name("boundary operator", operator, ["pool", "laplacian", "sobel"])


def boundary_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of two boundary maps, each scaled to unit length over its image's valid positions.

    .. math:: \Big\| \frac{b(x)}{\|b(x)\|_2} - \frac{b(t)}{\|b(t)\|_2} \Big\|_2^2

    per image, then the mean over the images that have a valid position. Zhang et al., arXiv 2401.13174.
    A map that is zero everywhere stays zero and receives no gradient.

    Args:
        student: boundary map (B, 1, H, W), any floating dtype; see `boundary_map`.
        teacher: boundary map (B, 1, H, W); receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 2] for non-negative maps, float32 (float64 for float64 input); 0 when no position is
        valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    if student.shape[1] != 1:
        raise UserError(f"student has shape {tuple(student.shape)}, expected a boundary map (B, 1, H, W)")
    difference = unit_length(student.flatten(1), dim=1) - unit_length(teacher.flatten(1), dim=1)
    return mean_over_images(difference.square().sum(dim=1), valid)
