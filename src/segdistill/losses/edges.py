"""Bands along the borders of labelled regions (BPKD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError


def label_edges(labels: Tensor, *, width: int, num_classes: int) -> Tensor:
    """Where a label of another class is at most ``width`` pixels away, in rows and in columns.

    Args:
        labels: integer (B, H, W); values outside 0..num_classes - 1 have no border with anything.
        width: half the band's width in pixels, 1 or more.
        num_classes: number of classes.

    Returns:
        bool (B, H, W).

    Raises:
        UserError: a shape or dtype does not fit, or ``width`` is below 1.

    Example:
        >>> label_edges(torch.tensor([[[0, 0, 0, 1, 1, 1]]]), width=1, num_classes=2)
        tensor([[[False, False,  True,  True, False, False]]])
    """
    if labels.dim() != 3 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UserError(f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}, expected integers (B, H, W)")
    if width < 1:
        raise UserError(f"width is {width}, expected 1 or more")
    known = (labels >= 0) & (labels < num_classes)
    highest = _window_maximum(torch.where(known, labels, -1).float(), width)
    lowest = -_window_maximum(torch.where(known, -labels, -num_classes).float(), width)
    return known & (highest != lowest)


def shrink_any(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask at ``size``: a position is set where any pixel that it covers is.

    Args:
        mask: bool (B, H, W).
        size: (h, w), both above 0.

    Returns:
        bool (B, h, w).
    """
    if mask.shape[1:] == tuple(size):
        return mask
    return F.adaptive_max_pool2d(mask.float(), size) > 0


def _window_maximum(values: Tensor, width: int) -> Tensor:
    window = 2 * width + 1
    rows = F.max_pool2d(values, (1, window), stride=1, padding=(0, width))
    return F.max_pool2d(rows, (window, 1), stride=1, padding=(width, 0))
