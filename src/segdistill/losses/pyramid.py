"""Distance of feature maps at several scales (ReviewKD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses import _inputs
from segdistill.losses._means import mean_over_pixels


def pyramid_mse(
    *, student: Tensor, teacher: Tensor, levels: Sequence[int] = (4, 2, 1), valid: Tensor | None = None
) -> Tensor:
    r"""Mean squared difference of two feature maps, and of both averaged to coarser and coarser grids.

    .. math:: \frac{\sum_{l=0}^{L} 2^{-l} \; \mathrm{mse}(x_l, t_l)}{\sum_{l=0}^{L} 2^{-l}}

    with x_0 the map itself and x_l its averages over ``levels[l - 1]`` x ``levels[l - 1]`` cells: the hierarchical
    context loss (HCL) of Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044. A cell
    is averaged over its valid positions and counts when at least half of them are valid. A level with as many rows as
    the map, or more, is left out, as in the authors' code.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels.
        teacher: features (B, C, H, W); receives no gradient.
        levels: sides of the coarser grids, each at least 1.
        valid: bool (B, H, W), the positions that count; ``None`` for all.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or a level is below 1.
    """
    for level in levels:
        _inputs.check_positive("levels", level)
    student, teacher = _inputs.pair(student, teacher, valid, same_channels=True)
    # Averages are linear: those of the difference are the difference of the averages.
    difference = student - teacher
    total, weight, whole = mean_over_pixels(difference.square().mean(dim=1), valid), 1.0, 1.0
    for level in levels:
        if level >= difference.shape[2]:
            continue
        weight /= 2
        whole += weight
        cells, kept = F.adaptive_avg_pool2d(difference, level), None
        if valid is not None:
            share = F.adaptive_avg_pool2d(valid.unsqueeze(1).to(difference.dtype), level)
            inside = share >= 0.5
            cells, kept = torch.where(inside, cells / share.clamp(min=0.5), 0.0), inside[:, 0]
        total = total + weight * mean_over_pixels(cells.square().mean(dim=1), kept)
    return total / whole
