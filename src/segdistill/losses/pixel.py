"""Per-pixel knowledge distillation of class scores (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_pixels


def pixel_kl(*, student: Tensor, teacher: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    r"""Kullback-Leibler divergence of the student's class distribution from the teacher's at every pixel.

    .. math:: T^2 \, \frac{1}{|V|} \sum_{i \in V} \sum_c p^t_{ic} \log \frac{p^t_{ic}}{p^x_{ic}},
        \qquad p = \mathrm{softmax}_c(z / T)

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2; the factor T^2
    keeps the size of the gradient when T changes. With one class the value is 0.

    Args:
        student: class scores (B, K, H, W), any floating dtype.
        teacher: class scores (B, K, H, W); receives no gradient.
        temperature: T > 0.
        valid: bool (B, H, W), the pixels that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no pixel is valid.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
        >>> teacher[:, 0] = 1.0
        >>> round(pixel_kl(student=student, teacher=teacher).item(), 4)
        0.1109
    """
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
    log_student = (student / temperature).log_softmax(dim=1)
    log_teacher = (teacher / temperature).log_softmax(dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * mean_over_pixels(divergence, valid)
