"""Pooling of features that knows which positions are valid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses import _inputs


def max_pool_valid(features: Tensor, valid: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest value of each window over its valid positions, and which windows are at least half valid.

    Windows do not overlap; those at the lower and right border may be smaller.

    Args:
        features: (B, C, H, W), any floating dtype.
        valid: bool (B, H, W).
        window: height and width of a window, both at least 1.

    Returns:
        (B, C, h, w) features, 0 in a window that is not valid, and bool (B, h, w).

    Raises:
        UserError: a shape or dtype does not fit.

    Example:
        >>> maps = torch.tensor([[[[1.0, 9.0, 2.0, 3.0, 5.0]]]])
        >>> pooled, inside = max_pool_valid(maps, torch.tensor([[[True, False, False, False, True]]]), (1, 2))
        >>> pooled.flatten().tolist(), inside.flatten().tolist()
        ([1.0, 0.0, 5.0], [True, False, True])
    """
    _inputs.check_features("features", features)
    _inputs.check_valid(valid, (len(features), *features.shape[2:]))
    if window == (1, 1):
        return features, valid
    inside = valid.unsqueeze(1)
    lowest = torch.finfo(features.dtype).min
    pooled = F.max_pool2d(torch.where(inside, features, lowest), window, ceil_mode=True)
    share = F.avg_pool2d(inside.float(), window, ceil_mode=True, count_include_pad=False)
    kept = share >= 0.5
    return torch.where(kept, pooled, 0.0), kept[:, 0]
