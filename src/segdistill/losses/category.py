"""How alike the places are where each class is found (DSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images
from segdistill.losses._unit_length import unit_length


def category_similarity_mse(
    *, student: Tensor, teacher: Tensor, temperature: float = 4.0, valid: Tensor | None = None
) -> Tensor:
    r"""Mean squared difference of the similarities of every pair of classes' spatial distributions.

    .. math:: \frac{1}{C^2} \sum_{c, d} (\hat\phi(x_c) \cdot \hat\phi(x_d) - \hat\phi(t_c) \cdot \hat\phi(t_d))^2,
        \qquad \phi(y)_i \propto e^{y_i / \tau}

    over the valid positions i of one image, a hat scaling to unit length; then the mean over the images that have a
    valid position. Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021.
    CIRKD's port leaves the scaling out: its products shrink as 1/N with the number of positions N.

    Args:
        student: class scores (B, C, H, W), any floating dtype.
        teacher: (B, C, H, W); receives no gradient.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature is not above 0.
    """
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    maps_s, maps_t = (_distribution(maps.flatten(2) / temperature, valid) for maps in (student, teacher))
    # Autocast would round the products to half precision, and the differences are small ones.
    with torch.autocast(maps_s.device.type, enabled=False):
        difference = maps_s @ maps_s.mT - maps_t @ maps_t.mT
    return mean_over_images(difference.square().mean(dim=(1, 2)), valid)


def _distribution(scores: Tensor, valid: Tensor | None) -> Tensor:
    """exp(scores) of unit length over the valid positions, (B, C, N); the largest is 1 before, so nothing is lost."""
    if valid is None:
        return unit_length((scores - scores.detach().amax(dim=2, keepdim=True)).exp(), dim=2)
    inside = valid.flatten(1).unsqueeze(1)
    largest = torch.where(inside, scores.detach(), -torch.inf).amax(dim=2, keepdim=True)
    # Where nothing is valid there is no largest score.
    shifted = torch.where(inside, scores - torch.where(largest.isfinite(), largest, 0.0), -torch.inf)
    return unit_length(shifted.exp(), dim=2)
