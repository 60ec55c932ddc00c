"""Distance of direction between feature vectors in a latent space (KA)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_pixels
from segdistill.losses._unit_length import unit_length


def latent_distance(
    *, student: Tensor, teacher: Tensor, p: float = 1, q: float = 2, valid: Tensor | None = None
) -> Tensor:
    r"""Distance between the scaled feature vectors of student and teacher at every position.

    .. math:: \frac{1}{|V|} \sum_{i \in V} \Big\| \frac{x_i}{\|x_i\|_q} - \frac{t_i}{\|t_i\|_q} \Big\|_p^p

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", arXiv 1903.04688, with
    p = 1, q = 2. A vector that is zero stays zero and receives no gradient from its scaling.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's latent space.
        teacher: features (B, C, H, W); receives no gradient.
        p: order of the distance, at least 1.
        q: order of the norm that vectors are divided by, at least 1.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or p or q is below 1.
    """
    for name, order in (("p", p), ("q", q)):
        if not order >= 1:
            raise UserError(f"{name} is {order}, expected a number of at least 1")
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
    difference = unit_length(student, dim=1, order=q) - unit_length(teacher, dim=1, order=q)
    distance = torch.linalg.vector_norm(difference, ord=p, dim=1) ** p
    return mean_over_pixels(distance, valid)
