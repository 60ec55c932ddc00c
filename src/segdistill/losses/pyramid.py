"""Distance of feature maps at several scales (ReviewKD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    # Averages are linear: those of the difference are the difference of the averages.
    difference = _inputs.difference(student, teacher, valid)
    height, width = difference.shape[2:]
    total, weight, whole = mean_over_pixels(difference.square().mean(dim=1), valid), 1.0, 1.0
    levels = [level for level in levels if level < height]
    if not levels:
        return total
    cells = torch.cat([_cells(height, width, level).to(difference) for level in levels], dim=1)
    averages, kept = _averages(difference.flatten(2), cells, valid)
    start = 0
    for level in levels:
        weight, span = weight / 2, slice(start, start + level**2)
        whole, start = whole + weight, span.stop
        squares = averages[:, :, span].square().mean(dim=1)
        total = total + weight * mean_over_pixels(squares, None if kept is None else kept[:, span])
    return total / whole


def _cells(height: int, width: int, level: int) -> Tensor:
    """(N, level^2): whether each position lies in each cell; cells overlap where a side is no multiple of the level."""
    sides = []
    for size in (height, width):
        cell, position = torch.arange(level), torch.arange(size).unsqueeze(1)
        sides.append((position >= cell * size // level) & (position < ((cell + 1) * size + level - 1) // level))
    return (sides[0][:, None, :, None] & sides[1][None, :, None, :]).reshape(height * width, level**2)


def _averages(maps: Tensor, cells: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Averages (B, C, cells) of maps (B, C, N), and which cells count; maps are 0 where they are not valid."""
    areas = cells.sum(dim=0)
    # One product for all levels: the maps, and their gradient, are gone through once.
    with torch.autocast(maps.device.type, enabled=False):
        if valid is None:
            return maps @ (cells / areas), None
        inside = valid.flatten(1).to(cells.dtype) @ cells
        return maps @ cells / inside.clamp(min=1).unsqueeze(1), 2 * inside >= areas
