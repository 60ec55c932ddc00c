"""A memory of vectors by class, oldest out first (CIRKD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.methods.draws import Draws


class ClassMemory(nn.Module):
    """The last ``size`` vectors of each class. Part of a method's state dict; half precision is enough for unit
    vectors.

    Every process that remembers the same vectors in the same order has the same memory.

    Args:
        num_classes: number of classes.
        size: vectors kept of each class.
        channels: their length.
    """

    vectors: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.size = size
        # One row more, where all is written that is not to be kept.
        self.register_buffer("vectors", torch.zeros(num_classes * size + 1, channels, dtype=torch.float16))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))

    def remember(self, vectors: Tensor, given: Tensor) -> None:
        """Keep new vectors in place of the oldest.

        Args:
            vectors: (K, n, C), for each class the newest last.
            given: bool (K, n), which of them there are.
        """
        order = given.cumsum(dim=1)
        # Of more than there is room for the last ones stay.
        kept = given & (order > order[:, -1:] - self.size)
        slot = (self.seen.unsqueeze(1) + order - 1) % self.size
        start = torch.arange(self.num_classes, device=slot.device).unsqueeze(1) * self.size
        row = torch.where(kept, start + slot, self.num_classes * self.size)
        self.vectors.index_copy_(0, row.flatten(), vectors.flatten(0, 1).to(self.vectors.dtype))
        self.vectors[-1] = 0
        self.seen += order[:, -1]

    def recall(self, count: int, draws: Draws, stream: int) -> tuple[Tensor, Tensor]:
        """About ``count`` vectors drawn evenly over the classes: (M, C), and which there are, bool (M,)."""
        each = min(self.size, -(-count // self.num_classes))
        known = self.seen.clamp(max=self.size).unsqueeze(1)
        drawn = draws(self.num_classes, each, stream=stream, same_everywhere=True)
        slot = (drawn * known).long().clamp(max=self.size - 1)
        start = torch.arange(self.num_classes, device=slot.device).unsqueeze(1) * self.size
        remembered = (known > 0).expand(-1, each)
        return self.vectors[(start + slot).flatten()].float(), remembered.flatten()
