"""Images and the quickest format, for the tests of exports."""

from __future__ import annotations

import torch
from torch import Tensor

FAST = "torch-export"  # the format that is made in a fraction of the others' time


def pixels(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)
