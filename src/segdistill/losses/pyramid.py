"""Distance of feature maps at several scales (ReviewKD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import _inputs


def pyramid_mse(
    *,
    student: Tensor,
    teacher: Tensor,
    levels: Sequence[int] = (4, 2, 1),
    valid: Tensor | None = None,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Mean squared difference of two feature maps, and of both averaged to coarser and coarser grids.

    .. math:: \frac{\sum_{l=0}^{L} 2^{-l} \; \mathrm{mse}(x_l, t_l)}{\sum_{l=0}^{L} 2^{-l}}

    with x_0 the map itself and x_l its averages over ``levels[l - 1]`` x ``levels[l - 1]`` cells: the hierarchical
    context loss (HCL) of Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044. A cell
    is averaged over its valid positions and counts when at least half of them are valid. A level with as many rows as
    the map, or more, is left out, as in the authors' code. There is no second derivative.

    Args:
        student: features (B, C, H, W), any floating dtype, already adapted to the teacher's channels; with ``adapter``
            of any width C_s.
        teacher: features (B, C, H, W); receives no gradient.
        levels: sides of the coarser grids, each at least 1.
        valid: bool (B, H, W), the positions that count; ``None`` for all.
        adapter: weight (C, C_s) and bias (C,) of a 1x1 convolution that the student's maps go through here, so that
            no map of the teacher's width is kept for the backward pass; computed in float32 at least.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); 0 when no position is valid.

    Raises:
        UserError: a shape or dtype does not fit, or a level is below 1.
    """
    for level in levels:
        _inputs.check_positive("levels", level)
    student, teacher = _inputs.checked(student, teacher, valid, same_channels=adapter is None)
    weight, bias = (None, None) if adapter is None else (one.to(student.dtype) for one in adapter)
    if weight is not None and weight.shape != (teacher.shape[1], student.shape[1]):
        raise UserError(
            f"adapter's weight has shape {tuple(weight.shape)}, expected ({teacher.shape[1]}, {student.shape[1]}): the "
            "teacher's channels and the student's"
        )
    with torch.autocast(student.device.type, enabled=False):
        coarser = [level for level in levels if level < student.shape[2]]
        value: Tensor = _Pyramid.apply(student, weight, bias, teacher, valid, coarser)
    return value


class _Pyramid(torch.autograd.Function):
    """The derivative is taken in the forward pass, in place of the difference, which is then gone.

    Averages are linear: those of the difference are the difference of the averages. One product with the cells of all
    levels makes them, and another one brings their derivative back, so that the maps are gone through a few times only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        teacher: Tensor,
        valid: Tensor | None,
        levels: list[int],
    ) -> Tensor:
        (height, width), outside = student.shape[2:], None if valid is None else ~valid.flatten(1).unsqueeze(2)
        rows, difference = _rows(student), _rows(teacher)
        if weight is None:
            difference = rows - difference
        else:
            rows = rows if outside is None else rows.masked_fill(outside, 0)
            difference = F.linear(rows, weight, bias).sub_(difference)
        if outside is not None:
            difference.masked_fill_(outside, 0)
        batch, positions, channels = difference.shape
        count = batch * positions if valid is None else valid.sum().clamp(min=1)
        value, whole = difference.square().sum() / count, 2 - 0.5 ** len(levels)
        if levels:
            cells = torch.cat([_cells(height, width, level) for level in levels], dim=1).to(difference)
            inside = cells.new_ones(batch, positions) if valid is None else valid.flatten(1).to(cells)
            sizes, weights = _cell_weights(cells, levels, inside)
            averages = (cells.T @ difference).div_(sizes)
            value = value + (averages.square().sum(dim=2, keepdim=True) * weights).sum()
            difference.baddbmm_(cells.expand(batch, -1, -1), averages.mul_(weights * count / sizes))
            if outside is not None:
                difference.masked_fill_(outside, 0)
        ctx.divisor = count * (channels * whole / 2)
        slopes = [difference if weight is None else difference @ weight]
        if weight is not None:
            flat = difference.flatten(0, 1)
            slopes += [flat.T @ rows.flatten(0, 1), flat.sum(dim=0)]
        ctx.save_for_backward(slopes[0].view(batch, height, width, -1).permute(0, 3, 1, 2), *slopes[1:])
        return value / (channels * whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        slopes = [slope * (grad_output / ctx.divisor) for slope in ctx.saved_tensors]
        return (*slopes, *[None] * (6 - len(slopes)))


def _rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) as (B, N, C): a view, whichever of both layouts the maps have."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _cells(height: int, width: int, level: int) -> Tensor:
    """(N, level^2): whether each position lies in each cell; cells overlap where a side is no multiple of the level."""
    sides = []
    for size in (height, width):
        cell, position = torch.arange(level), torch.arange(size).unsqueeze(1)
        sides.append((position >= cell * size // level) & (position < ((cell + 1) * size + level - 1) // level))
    return (sides[0][:, None, :, None] & sides[1][None, :, None, :]).reshape(height * width, level**2)


def _cell_weights(cells: Tensor, levels: list[int], inside: Tensor) -> tuple[Tensor, Tensor]:
    """Valid positions of each cell, at least 1, and its part in the sum of squares; both (B, cells, 1)."""
    sizes = inside @ cells
    counts = (2 * sizes >= cells.sum(dim=0)).to(cells)
    of_levels = torch.split(counts, [level**2 for level in levels], dim=1)
    weights = [one * (0.5**step / one.sum().clamp(min=1)) for step, one in enumerate(of_levels, start=1)]
    return sizes.clamp(min=1).unsqueeze(2), torch.cat(weights, dim=1).unsqueeze(2)
