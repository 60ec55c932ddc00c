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
    anchors: Tensor | None,
    temperature: float,
    include_self: bool,
    row_loss: RowLoss,
) -> Tensor:
    """Mean over valid rows of ``row_loss`` on softmax(cosine similarities / temperature).

    Args:
        student: unit-length vectors, position by position, (B, N, C_s), contiguous.
        teacher: the same of the teacher, (B, N, C_t).
        valid: bool (B, N) or ``None``.
        anchors: int64 (M,), the positions whose rows are compared, each once; ``None`` for all.
        temperature: divides the similarities.
        include_self: whether a position's similarity to itself (always 1) is part of its row.
        row_loss: see `RowLoss`.
    """
    result: Tensor = _TiledRelation.apply(student, teacher, valid, anchors, temperature, include_self, row_loss)
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
        anchors: Tensor | None,
        temperature: float,
        include_self: bool,
        row_loss: RowLoss,
    ) -> Tensor:
        batch, positions, _ = student.shape
        if anchors is None:
            anchors = torch.arange(positions, device=student.device)
        own_student, own_teacher = student[:, anchors], teacher[:, anchors]
        own_valid = None if valid is None else valid[:, anchors]
        # By the rows' own vectors, and by the vectors that they are compared with.
        own_gradient = torch.empty_like(own_student) if ctx.needs_input_grad[0] else None
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        total = student.new_zeros(())
        limit = _TILE_CPU if student.device.type == "cpu" else _TILE_ACCELERATOR
        buffers = student.new_empty(3, min(max(limit, positions), batch * len(anchors) * positions))
        with torch.autocast(student.device.type, enabled=False):
            for images, rows in _tiles(batch, len(anchors), positions, limit):
                shape = (images.stop - images.start, rows.stop - rows.start, positions)
                scratch, log_student, log_teacher = (
                    buffer[: shape[0] * shape[1] * shape[2]].view(shape) for buffer in buffers
                )
                sides = ((own_student, student, log_student), (own_teacher, teacher, log_teacher))
                for own, others, target in sides:
                    torch.baddbmm(
                        scratch, own[images, rows], others[images].mT, beta=0, alpha=1 / temperature, out=scratch
                    )
                    if not include_self:
                        scratch.scatter_(2, anchors[rows].view(1, -1, 1).expand(shape[0], -1, 1), _OUT)
                    if valid is not None:
                        scratch.masked_fill_(~valid[images].unsqueeze(1), _OUT)
                    torch.log_softmax(scratch, dim=2, out=target)
                losses = row_loss(log_student, log_teacher, scratch)
                slope = log_student
                if own_valid is not None:
                    inside = own_valid[images, rows]
                    losses = torch.where(inside, losses, 0.0)
                    slope.mul_(inside.unsqueeze(2))
                total += losses.sum()
                if gradient is not None and own_gradient is not None:
                    own_gradient[images, rows] = slope @ student[images]
                    gradient[images].baddbmm_(slope.mT, own_student[images, rows])
        count = batch * len(anchors) if own_valid is None else own_valid.sum().clamp(min=1)
        if gradient is not None and own_gradient is not None:
            gradient.index_add_(1, anchors, own_gradient)
            ctx.save_for_backward(gradient.div_(count * temperature))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None, None, None, None


def _tiles(batch: int, rows: int, positions: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of rows whose (images, rows, positions) block has at most ``limit`` elements.

    Several whole images where they fit, else rows of one image (one row at least, however long it is).
    """
    images = max(1, limit // (rows * positions))
    height = min(rows, max(1, limit // positions))
    for image in range(0, batch, images):
        for row in range(0, rows, height):
            yield slice(image, min(image + images, batch)), slice(row, min(row + height, rows))
