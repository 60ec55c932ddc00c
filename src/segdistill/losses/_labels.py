"""Class labels as the losses take them."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError


def labelled(labels: Tensor, num_classes: int, student: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Labels that can index, and which positions count: valid ones whose label is a class.

    Args:
        labels: integer (B, H, W); whatever is not in 0..num_classes - 1 is no class.
        num_classes: K.
        student: (B, C, H, W), what the labels belong to.
        valid: bool (B, H, W), or weights >= 0, floating-point, or ``None``.

    Returns:
        int64 labels (B, H, W), 0 where there is no class; and what to give as ``valid`` from now on.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"labels has dtype {labels.dtype}, expected an integer dtype")
    expected = (student.shape[0], *student.shape[2:])
    if labels.shape != expected:
        raise UserError(f"labels has shape {tuple(labels.shape)}, expected {expected}")
    known = (labels >= 0) & (labels < num_classes)
    index = torch.where(known, labels, 0).long()
    if valid is None:
        return index, known
    return index, known & valid if valid.dtype == torch.bool else torch.where(known, valid, 0.0)
