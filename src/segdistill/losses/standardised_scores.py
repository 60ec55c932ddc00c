"""Per-pixel knowledge distillation of standardised class scores (Sun et al., CVPR 2024)."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import _inputs
from segdistill.losses._standardised import standardised
from segdistill.losses.pixel import pixel_kl


def standardised_kl(
    *, student: Tensor, teacher: Tensor, temperature: float = 2.0, valid: Tensor | None = None
) -> Tensor:
    r"""Kullback-Leibler divergence of class distributions whose scores have mean 0 and variance 1 at every pixel.

    .. math:: T^2 \, \frac{1}{|V|} \sum_{i \in V} \sum_c p^t_{ic} \log \frac{p^t_{ic}}{p^x_{ic}}, \qquad
        p_i = \mathrm{softmax}_c \Big( \frac{z_i - \bar z_i}{\sigma(z_i)} / T \Big)

    Sun et al., "Logit Standardization in Knowledge Distillation", arXiv 2403.01427. The student need not reach the
    size of the teacher's scores, only their order and proportions. With one class the value is 0; scores that are all
    equal become 0 and receive no gradient.

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
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
    return pixel_kl(
        student=standardised(student, dim=1),
        teacher=standardised(teacher, dim=1),
        temperature=temperature,
        valid=valid,
    )
