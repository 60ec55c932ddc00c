"""Channel-wise knowledge distillation (Shu et al., ICCV 2021)."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images

# Stands for minus infinity in a softmax: no probability is left there, and differences of two of them stay
# finite.
_OUT = -1e30


def channel_kl(*, student: Tensor, teacher: Tensor, temperature: float = 4.0, valid: Tensor | None = None) -> Tensor:
    r"""Kullback-Leibler divergence between spatial distributions, channel by channel (CWD).

    .. math:: \frac{\tau^2}{C} \sum_c \sum_i \phi(t_c)_i \log \frac{\phi(t_c)_i}{\phi(x_c)_i},
        \qquad \phi(y)_i = \frac{e^{y_i / \tau}}{\sum_j e^{y_j / \tau}}

    with i and j over the valid positions of one image, then the mean over the images that have one.
    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", arXiv 2011.13256.

    Args:
        student: features or class scores (B, C, H, W), any floating dtype.
        teacher: (B, C, H, W); receives no gradient.
        temperature: tau > 0.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or the temperature is not above 0.
    """
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    student, teacher = student.flatten(2) / temperature, teacher.flatten(2) / temperature
    if valid is not None:
        ignored = ~valid.flatten(1).unsqueeze(1)
        student, teacher = student.masked_fill(ignored, _OUT), teacher.masked_fill(ignored, _OUT)
    log_student, log_teacher = student.log_softmax(dim=2), teacher.log_softmax(dim=2)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=2).mean(dim=1)
    return temperature**2 * mean_over_images(divergence, valid)
