"""Values shifted to mean 0 and scaled to variance 1, safely."""

from __future__ import annotations

import torch
from torch import Tensor

# A spread below this part of the values' own size is rounding, not content.
_FLAT = 1e-5


def standardised(values: Tensor, dim: int, inside: Tensor | None = None) -> Tensor:
    """``values`` with mean 0 and variance 1 along ``dim``; constant values become 0 and get no gradient.

    Args:
        values: any shape; float32 at least; 0 where they do not count.
        dim: the dimension to average over.
        inside: bool, broadcast to ``values``: what counts. What does not is finite in the result, and means nothing.
            ``None``: all count.
    """
    count = values.shape[dim] if inside is None else inside.sum(dim=dim, keepdim=True).clamp(min=1)
    mean = values.sum(dim=dim, keepdim=True) / count
    centred = values - mean
    squares = centred * centred  # its gradient takes one pass less than that of `square`
    squares = squares if inside is None else squares * inside
    variance = squares.sum(dim=dim, keepdim=True) / count
    tiny = torch.finfo(values.dtype).tiny ** 0.5
    bound = (_FLAT**2 * mean.detach().square()).clamp(min=tiny)
    # Below its bound `clamp` passes no gradient to the variance; nor must the values be scaled up there.
    return centred * torch.where(variance > bound, variance.clamp(min=bound).rsqrt(), 0.0)
