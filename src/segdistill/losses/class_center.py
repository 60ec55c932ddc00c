"""How alike each position is to the mean of its class (IFVD)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_pixels
from segdistill.losses._unit_length import unit_length


def class_center_mse(
    *, student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, valid: Tensor | None = None
) -> Tensor:
    r"""Mean squared difference of the cosine of each position with the mean feature of its class.

    .. math:: \frac{1}{|V|} \sum_{i \in V} \big( \cos(x_i, \mu^x_{y_i}) - \cos(t_i, \mu^t_{y_i}) \big)^2

    with the mean over the positions of class y_i in the same image. Wang et al., "Intra-class Feature Variation
    Distillation for Semantic Segmentation", ECCV 2020. V are the valid positions that have a label; in the authors'
    code those without one take part in the mean with a difference of 0.

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        labels: class of each position, any integer dtype (B, H, W); a position whose value is not in
            0 .. num_classes - 1 has no label.
        num_classes: number of classes, at least 1.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean (the
            classes' means are not weighted); ``None`` for all.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 input); 0 when no position counts.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, weights_allowed=True)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UserError(f"labels has dtype {labels.dtype}, expected an integer dtype")
    if labels.shape != (len(student), *student.shape[2:]):
        raise UserError(f"labels has shape {tuple(labels.shape)}, expected {(len(student), *student.shape[2:])}")
    labels = labels.long()
    labelled = (labels >= 0) & (labels < num_classes)
    if valid is not None:
        labelled = labelled & (valid > 0)
    members = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).view(-1, 1, 1)) & labelled[
        :, None
    ]
    indicator = members.flatten(2).to(student.dtype)
    cosines = [_cosines_with_centers(maps.flatten(2), indicator) for maps in (student, teacher)]
    squared = (cosines[0] - cosines[1]).square().view(labels.shape)
    return mean_over_pixels(squared, labelled if valid is None or valid.dtype == torch.bool else valid * labelled)


def _cosines_with_centers(features: Tensor, indicator: Tensor) -> Tensor:
    """(B, N): cosine of each position's features (B, C, N) with the mean of its class; ``indicator`` is (B, K, N)."""
    # Autocast would round the products to half precision, and the differences are small ones.
    with torch.autocast(features.device.type, enabled=False):
        # Sums instead of means: a direction is all that counts.
        centers = unit_length(indicator @ features.mT, dim=2)
        return ((centers @ unit_length(features, dim=1)) * indicator).sum(dim=1)
