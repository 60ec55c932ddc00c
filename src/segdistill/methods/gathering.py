"""For methods that relate images across the batch: the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gather_batch(maps: Tensor) -> Tensor:
    """``maps`` of every process one after another along the first dimension; gradients find their way back.

    With one process the same tensor. All processes must call it, in the same order, with equal shapes. Each then
    computes the same loss on the whole batch; on the way back its gradient is summed over them, and the mean that the
    processes take of their parameters' gradients makes that the gradient of one process with the whole batch.

    Args:
        maps: (B, ...), e.g. embeddings.

    Returns:
        (P * B, ...) with P processes, in the order of their ranks.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return maps
    gathered: Tensor = _Gathered.apply(maps)
    return gathered


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.batch = len(maps)
        whole = maps.contiguous()
        parts = [torch.empty_like(whole) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, whole)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        total = grad_output.contiguous()
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.batch
        return total[start : start + ctx.batch]
