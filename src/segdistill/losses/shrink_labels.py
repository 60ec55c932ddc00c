"""Labels at another resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError


def shrink_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """The label in the middle of the area that each position covers ("nearest" resizing, for any ratio).

    Args:
        labels: integer (B, H, W).
        size: (h, w), both above 0.

    Returns:
        (B, h, w), same dtype.

    Raises:
        UserError: the shape does not fit, or a side is not above 0.

    Example:
        >>> shrink_labels(torch.tensor([[[0, 1, 2, 3, 4, 5]]]), (1, 2))
        tensor([[[1, 4]]])
    """
    if labels.dim() != 3:
        raise UserError(f"labels has shape {tuple(labels.shape)}, expected (B, H, W)")
    height, width = size
    if height < 1 or width < 1:
        raise UserError(f"size is {tuple(size)}, expected two numbers above 0")
    if labels.shape[1:] == (height, width):
        return labels
    rows, columns = (
        # (position + 1/2) * pixels / positions, rounded down, in whole numbers.
        torch.arange(cells, device=labels.device).mul(2).add(1).mul(pixels) // (2 * cells)
        for cells, pixels in ((height, labels.shape[1]), (width, labels.shape[2]))
    )
    return labels[:, rows[:, None], columns]
