"""Decoupled knowledge distillation: the labelled class and the others apart (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._labels import labelled
from segdistill.losses._means import mean_over_pixels

# Stands for minus infinity in a softmax: no probability is left there, and differences of two of them stay
# finite.
_OUT = -1e30


def target_kl(
    *, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    r"""Divergence of the probability of the labelled class, against all others together (TCKD).

    .. math:: T^2 \frac{1}{|V|} \sum_{i \in V} \Big( p^t_y \log \frac{p^t_y}{p^x_y}
        + (1 - p^t_y) \log \frac{1 - p^t_y}{1 - p^x_y} \Big), \qquad p = \mathrm{softmax}(z / T)

    Zhao et al., "Decoupled Knowledge Distillation", arXiv 2203.08679, eq. 7. With `non_target_kl`:
    ``pixel_kl = target_kl + (1 - p^t_y) non_target_kl``, pixel by pixel.

    Args:
        student: class scores (B, K, H, W), K of at least 2, any floating dtype.
        teacher: class scores (B, K, H, W); receives no gradient.
        labels: class of every position, integer (B, H, W); positions with another value do not count.
        temperature: T > 0.
        valid: bool (B, H, W), the positions that count; or their weights >= 0, floating-point, for a weighted mean;
            ``None`` for all that have a label.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position counts.

    Raises:
        UserError: a shape or dtype does not fit, there is one class, or the temperature is not above 0.
    """
    x, t, _, valid = _split(student, teacher, labels, temperature, valid)
    log_x, log_t = (torch.stack(parts[:2]) for parts in (x, t))
    # Both pairs of probabilities sum to 1: adding q - p changes nothing but rounding, which cancels to first order.
    divergence = (log_t.exp() * (log_t - log_x) + log_x.exp() - log_t.exp()).sum(dim=0)
    return temperature**2 * mean_over_pixels(divergence, valid)


def non_target_kl(
    *, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    r"""Divergence of the distribution over all classes but the labelled one (NCKD).

    .. math:: T^2 \frac{1}{|V|} \sum_{i \in V} \sum_{c \ne y} \hat p^t_c \log \frac{\hat p^t_c}{\hat p^x_c},
        \qquad \hat p_c = \frac{e^{z_c / T}}{\sum_{k \ne y} e^{z_k / T}}

    Zhao et al., "Decoupled Knowledge Distillation", arXiv 2203.08679, eq. 7. With two classes it is 0.

    Arguments, result and errors are those of `target_kl`.
    """
    x, t, is_target, valid = _split(student, teacher, labels, temperature, valid)
    log_x, log_t = (torch.where(is_target, 0.0, parts[2]) for parts in (x, t))
    divergence = (torch.where(is_target, 0.0, log_t.exp()) * (log_t - log_x)).sum(dim=1)
    return temperature**2 * mean_over_pixels(divergence, valid)


def _split(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, valid: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """For each side: log p_y, log(1 - p_y), and log of the others' shares; where the target is; what counts."""
    _inputs.check_positive("temperature", temperature)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True, weights_allowed=True)
    if student.shape[1] < 2:
        raise UserError(f"student has shape {tuple(student.shape)}, expected at least 2 classes")
    labels, counted = labelled(labels, student.shape[1], student, valid)
    classes = torch.arange(student.shape[1], device=labels.device).view(1, -1, 1, 1)
    is_target = classes == labels.unsqueeze(1)

    def parts(scores: Tensor) -> tuple[Tensor, ...]:
        scores = scores / temperature
        everything = scores.logsumexp(dim=1)
        others = torch.where(is_target, _OUT, scores)
        other = others.logsumexp(dim=1)
        target = torch.where(is_target, scores, 0.0).sum(dim=1)
        return target - everything, other - everything, others - other.unsqueeze(1)

    return parts(student), parts(teacher), is_target, counted
