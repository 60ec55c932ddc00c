"""Row-normalised relations of some vectors to groups of others, in tiles: the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segdistill.losses._tiled_relation import _OUT, _TILE_ACCELERATOR, _TILE_CPU


def tiled_rows_kl(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    temperature: float,
) -> Tensor:
    """Mean over valid rows, and over groups, of the divergence of the row's softmaxed similarities to the group.

    Args:
        student: unit-length rows (R, C_s), and groups of keys (G, N, C_s).
        teacher: rows (R, C_t) and keys (G, N, C_t).
        valid: bool: which rows count (R,), and which keys (G, N); a group without a key does not count.
        temperature: divides the similarities.
    """
    result: Tensor = _TiledRows.apply(*student, *teacher, *valid, temperature)
    return result


class _TiledRows(torch.autograd.Function):
    """The derivative is taken in the forward pass, tile by tile, as in `_TiledRelation`."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_s: Tensor,
        keys_s: Tensor,
        rows_t: Tensor,
        keys_t: Tensor,
        valid_rows: Tensor,
        valid_keys: Tensor,
        temperature: float,
    ) -> Tensor:
        groups, members, _ = keys_s.shape
        row_slope = torch.zeros_like(rows_s) if ctx.needs_input_grad[0] else None
        key_slope = torch.zeros_like(keys_s) if ctx.needs_input_grad[1] else None
        seen = valid_keys.any(dim=1)
        total = rows_s.new_zeros(())
        limit = _TILE_CPU if rows_s.device.type == "cpu" else _TILE_ACCELERATOR
        with torch.autocast(rows_s.device.type, enabled=False):
            for rows, some in _tiles(len(rows_s), groups, members, limit):
                log_student, log_teacher = (
                    _log_rows(own[rows], keys[some], valid_keys[some], temperature)
                    for own, keys in ((rows_s, keys_s), (rows_t, keys_t))
                )
                counts = valid_rows[rows, None] & seen[some]
                probabilities = log_teacher.exp()
                losses = log_teacher.sub_(log_student).mul_(probabilities).sum(dim=2)
                slope = log_student.exp_().sub_(probabilities)
                # Both rows sum to 1: adding this changes nothing but rounding (see `_kl_rows`).
                total += torch.where(counts, losses + slope.sum(dim=2), 0.0).sum()
                slope.mul_(counts.unsqueeze(2))
                if row_slope is not None:
                    row_slope[rows].addmm_(slope.flatten(1), keys_s[some].flatten(0, 1))
                if key_slope is not None:
                    key_slope[some].view(-1, keys_s.shape[2]).addmm_(slope.flatten(1).T, rows_s[rows])
        count = (valid_rows.sum() * seen.sum()).clamp(min=1)
        ctx.save_for_backward(
            *(None if slope is None else slope.div_(count * temperature) for slope in (row_slope, key_slope))
        )
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        slopes = (None if slope is None else slope * grad_output for slope in ctx.saved_tensors)
        return (*slopes, None, None, None, None, None)


def _log_rows(rows: Tensor, keys: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """log softmax over the keys of each group, (rows, groups, keys)."""
    similarity = (rows @ keys.flatten(0, 1).T).div_(temperature).view(len(rows), *valid.shape)
    return similarity.masked_fill_(~valid, _OUT).log_softmax(dim=2)


def _tiles(rows: int, groups: int, members: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of groups whose (rows, groups, members) block has at most about ``limit`` elements."""
    some = max(1, min(groups, limit // members))
    height = max(1, min(rows, limit // (some * members)))
    for group in range(0, groups, some):
        for row in range(0, rows, height):
            yield slice(row, row + height), slice(group, group + some)
