"""Distance of whole feature maps of unit length (AttnFD)."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length


def unit_map_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of two feature maps, each scaled to unit length as one long vector.

    .. math:: \Big\| \frac{x}{\|x\|} - \frac{t}{\|t\|} \Big\|^2

    over the channels and valid positions of an image, then the mean over the images that have one. Mansourian et al.,
    "Attention-guided Feature Distillation for Semantic Segmentation", arXiv 2403.05451. A map that is zero stays zero
    and receives no gradient from its scaling.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: features (B, C, H, W); receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    x, t = unit_length(student.flatten(1), dim=1), unit_length(teacher.flatten(1), dim=1)
    return mean_over_images((x - t).square().sum(dim=1), valid)
