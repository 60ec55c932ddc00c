"""Random numbers of a method that depend on how many steps it has made, and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class Draws(nn.Module):
    """Uniform random numbers from a counter that is part of the state dict.

    A resumed run draws what an unbroken one would, whatever else uses torch's generators; no value is read by the host.
    The counter moves on with `advance`, in training only.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def advance(self) -> None:
        """From now on other numbers are drawn; not in eval mode."""
        if self.training:
            self.step += 1

    def forward(self, *shape: int, stream: int = 0, same_everywhere: bool = False) -> Tensor:
        """Numbers in [0, 1), float32.

        Args:
            shape: of the result.
            stream: other numbers of the same step.
            same_everywhere: every process draws the same; otherwise each its own part of one long draw.
        """
        count = torch.Size(shape).numel()
        start = 0
        if not same_everywhere and distributed.is_available() and distributed.is_initialized():
            start = distributed.get_rank() * count
        value = torch.arange(start, start + count, device=self.step.device)
        # A hash of 32 bits, in whole numbers of 64.
        value = (value + 0x9E3779B1 * self.step + 0x85EBCA6B * stream) & 0xFFFFFFFF
        for _ in range(3):
            value = ((value ^ (value >> 16)) * 0x045D9F3B) & 0xFFFFFFFF
        value = value ^ (value >> 16)
        return ((value >> 8).float() * 2.0**-24).view(shape)
