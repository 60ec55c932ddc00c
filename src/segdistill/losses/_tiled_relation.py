"""Row-normalised relations between all positions, in tiles of rows: the N x N matrix never exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Stands for minus infinity in a softmax: no probability is left there, and differences of two of them stay
# finite.
_OUT = -1e30

# Elements of one buffer of a tile. A processor's caches want small tiles, an accelerator wants few launches.
_TILE_CPU = 2**21
_TILE_ACCELERATOR = 2**24

RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``row_loss(log_student, log_teacher, scratch) -> (images, rows)``.

It takes the log-probabilities of a tile (images, rows, N), returns the loss of each row, and leaves the
derivative of that loss by the student's logits in ``log_student``; all three buffers are its to overwrite.
"""


def tiled_relation(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None,
    temperature: float,
    include_self: bool,
    row_loss: RowLoss,
) -> Tensor:
    """Mean over valid rows of ``row_loss`` on softmax(cosine similarities / temperature).

    Args:
        student: unit-length vectors, position by position, (B, N, C_s), contiguous.
        teacher: the same of the teacher, (B, N, C_t).
        valid: bool (B, N) or ``None``.
        temperature: divides the similarities.
        include_self: whether a position's similarity to itself (always 1) is part of its row.
        row_loss: see `RowLoss`.
    """
    result: Tensor = _TiledRelation.apply(student, teacher, valid, temperature, include_self, row_loss)
    return result


class _TiledRelation(torch.autograd.Function):
    """The derivative is taken in the forward pass, tile by tile, while the tile is at hand.

    A row's loss depends on no other row, so that everything about a tile is known once it is computed;
    keeping the student's gradient (as large as the features) is cheaper than computing every tile again in
    the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        valid: Tensor | None,
        temperature: float,
        include_self: bool,
        row_loss: RowLoss,
    ) -> Tensor:
        batch, positions, _ = student.shape
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        total = student.new_zeros(())
        limit = _TILE_CPU if student.device.type == "cpu" else _TILE_ACCELERATOR
        buffers = student.new_empty(3, min(max(limit, positions), batch * positions**2))
        with torch.autocast(student.device.type, enabled=False):
            for images, rows in _tiles(batch, positions, limit):
                shape = (images.stop - images.start, rows.stop - rows.start, positions)
                scratch, log_student, log_teacher = (
                    buffer[: shape[0] * shape[1] * shape[2]].view(shape) for buffer in buffers
                )
                for features, target in ((student, log_student), (teacher, log_teacher)):
                    _similarities(features[images], rows, temperature, out=scratch)
                    if not include_self:
                        scratch[:, :, rows].diagonal(dim1=1, dim2=2).fill_(_OUT)
                    if valid is not None:
                        scratch.masked_fill_(~valid[images].unsqueeze(1), _OUT)
                    torch.log_softmax(scratch, dim=2, out=target)
                losses = row_loss(log_student, log_teacher, scratch)
                slope = log_student
                if valid is not None:
                    inside = valid[images, rows]
                    losses = torch.where(inside, losses, 0.0)
                    slope.mul_(inside.unsqueeze(2))
                total += losses.sum()
                if gradient is not None:
                    gradient[images, rows].baddbmm_(slope, student[images], alpha=1 / temperature)
                    gradient[images].baddbmm_(slope.mT, student[images, rows], alpha=1 / temperature)
        count = batch * positions if valid is None else valid.sum().clamp(min=1)
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None, None, None


def _similarities(features: Tensor, rows: slice, temperature: float, *, out: Tensor) -> None:
    torch.baddbmm(out, features[:, rows], features.mT, beta=0, alpha=1 / temperature, out=out)


def _tiles(batch: int, positions: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of rows whose (images, rows, positions) block has at most ``limit`` elements.

    Several whole images where they fit, else rows of one image (one row at least, however long it is).
    """
    images = max(1, limit // positions**2)
    rows = min(positions, max(1, limit // positions))
    for image in range(0, batch, images):
        for row in range(0, positions, rows):
            yield slice(image, min(image + images, batch)), slice(row, min(row + rows, positions))
