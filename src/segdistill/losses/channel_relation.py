"""Relations between channels (DRD's channel relation map)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length


def channel_relation_mse(*, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the cosine similarities of every pair of channel maps.

    .. math:: \frac{1}{C^2} \sum_{c, d} (\hat x_c \cdot \hat x_d - \hat t_c \cdot \hat t_d)^2

    where a channel's map is its values over the valid positions of one image, scaled to unit length; then the
    mean over the images that have a valid position. Li et al., "Building Lightweight Semantic Segmentation
    Models for Aerial Images Using Dual Relation Distillation", arXiv 2506.20688.

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
    maps_s, maps_t = unit_length(student.flatten(2), dim=2), unit_length(teacher.flatten(2), dim=2)
    # Autocast would round the products to half precision, and the differences are small ones.
    with torch.autocast(maps_s.device.type, enabled=False):
        difference = maps_s @ maps_s.mT - maps_t @ maps_t.mT
    return mean_over_images(difference.square().mean(dim=(1, 2)), valid)
