"""Feature distillation inside learned receptive fields (MasKD, Huang et al., ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_images


def receptive_masks(maps: Tensor, tokens: Tensor) -> Tensor:
    r"""The soft receptive field of each token, :math:`m_{ki} = \sigma(w_k \cdot f_i)`.

    Args:
        maps: features (B, C, H, W).
        tokens: (M, C).

    Returns:
        (B, M, H, W), each in 0..1.

    Raises:
        UserError: a shape does not fit.
    """
    _inputs.check_features("maps", maps)
    if tokens.dim() != 2 or tokens.shape[1] != maps.shape[1]:
        raise UserError(f"tokens has shape {tuple(tokens.shape)}, expected (M, {maps.shape[1]})")
    return torch.einsum("mc,bchw->bmhw", tokens, maps).sigmoid()


def mask_overlap(masks: Tensor) -> Tensor:
    r"""Mean Dice coefficient of every two masks of an image, mean over images; 0 for a single mask.

    .. math:: \frac{1}{M (M - 1)} \sum_{k \ne l} \frac{2 \sum_i m_{ki} m_{li}}{\sum_i m_{ki}^2 + \sum_i m_{li}^2}

    Args:
        masks: (B, M, H, W), each in 0..1.
    """
    flat = masks.flatten(2)
    number = flat.shape[1]
    products = flat @ flat.mT
    squares = products.diagonal(dim1=1, dim2=2)
    dice = 2 * products / (squares.unsqueeze(1) + squares.unsqueeze(2)).clamp(min=1e-12)
    others = dice.sum(dim=(1, 2)) - dice.diagonal(dim1=1, dim2=2).sum(dim=1)
    return others.mean() / max(1, number * (number - 1))


def receptive_mse(*, student: Tensor, teacher: Tensor, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared difference of two feature maps inside each of the teacher's soft receptive fields.

    .. math:: \frac{1}{2 M C} \sum_k \frac{\sum_i m_{ki}^2 \|x_i - t_i\|^2}{\sum_i m_{ki}},
        \qquad m_{ki} = \sigma(w_k \cdot t_i)

    over the valid positions i of an image, then the mean over the images that have one. Huang et al., "Masked
    Distillation with Receptive Tokens", arXiv 2205.14589, eq. 6. With masks of 1 it is half the mean squared
    difference.

    Args:
        student: features or class scores (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: (B, C, H, W); receives no gradient.
        tokens: w, (M, C); receives no gradient.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit.
    """
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    with torch.autocast(student.device.type, enabled=False):
        masks = receptive_masks(teacher, tokens.detach().to(teacher.dtype))
        if valid is not None:
            masks = torch.where(valid.unsqueeze(1), masks, 0.0)
        masks = masks.flatten(2)
        squares = (student - teacher).square().mean(dim=1).flatten(1)
        inside = (masks.square() @ squares.unsqueeze(2)).squeeze(2) / masks.sum(dim=2).clamp(min=1e-5)
    return mean_over_images(inside.mean(dim=1) / 2, valid)
