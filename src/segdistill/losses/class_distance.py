"""Distances between the centres of classes (IDD, Zhang et al., IJCAI 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._labels import labelled

# Mean squared distances of the teacher's centres below it are taken for 0: there is nothing to divide by.
_NEAREST = 1e-24


def class_distance_mse(
    *,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    num_classes: int,
    relative: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Squared difference of the distances between every two class centres of an image.

    .. math:: \frac{1}{|P|} \sum_{(i, j) \in P} \big( \|\mu^x_i - \mu^x_j\| - \|\mu^t_i - \mu^t_j\| \big)^2

    with the mean feature mu_i of the positions labelled i, and P the pairs of classes that the image shows; mean over
    the images that show two. Zhang et al., "Distilling Inter-Class Distance for Semantic Segmentation",
    arXiv 2205.03650, eq. 3 (there 1/2 of the sum over pairs). With ``relative`` an image's value is divided by the mean
    squared distance of the teacher's centres, so that the teacher's scale means nothing: a student whose centres
    coincide has the value 1. Student and teacher may have different channels.

    Args:
        student: features (B, C_s, H, W), any floating dtype.
        teacher: features (B, C_t, H, W); receives no gradient.
        labels: class of every position, integer (B, H, W); positions with another value do not count.
        num_classes: number of classes, K.
        relative: divide by the teacher's distances.
        valid: bool (B, H, W), the positions that count; ``None`` for all that have a label.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no image shows two classes.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid)
    labels, counted = labelled(labels, num_classes, student, valid)
    classes = torch.arange(num_classes, device=labels.device)
    members = ((labels.flatten(1).unsqueeze(2) == classes) & counted.flatten(1).unsqueeze(2)).to(student.dtype)
    sizes = members.sum(dim=1)
    seen = sizes > 0
    pairs = (seen.unsqueeze(1) & seen.unsqueeze(2)).triu(diagonal=1)
    number = pairs.sum(dim=(1, 2))
    with torch.autocast(student.device.type, enabled=False):
        x, t = (_distances(maps, members, sizes) for maps in (student, teacher))
    squares = torch.where(pairs, (x - t).square(), 0.0).sum(dim=(1, 2))
    norm = torch.where(pairs, t.square(), 0.0).sum(dim=(1, 2)) if relative else number.to(squares.dtype)
    counts = (number > 0) & (norm > _NEAREST)
    values = torch.where(counts, squares, 0.0) / torch.where(counts, norm, 1.0)
    return values.sum() / counts.sum().clamp(min=1)


def _distances(maps: Tensor, members: Tensor, sizes: Tensor) -> Tensor:
    """Distances of the class means, (B, K, K); ``members`` (B, N, K) is 1 where a position is of a class."""
    flat = maps.flatten(2)
    # The whole image's mean goes first: it is in every centre, and differences of large numbers are inexact.
    total = sizes.sum(dim=1).clamp(min=1)[:, None, None]
    inside = members.sum(dim=2, keepdim=True)
    middle = flat @ inside / total
    centres = ((flat - middle) @ members).mT / sizes.clamp(min=1).unsqueeze(2)
    # The product form is faster, and inexact where centres are close to each other.
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
