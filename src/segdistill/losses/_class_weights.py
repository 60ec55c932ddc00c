"""The class weights of ENet, for task losses and for distillation alike."""

from __future__ import annotations

import torch
from torch import Tensor


def enet_weights(pixels: Tensor) -> Tensor:
    """1 / ln(1.02 + share of pixels), scaled to a mean of 1 over the classes that occur; 0 for the others.

    Args:
        pixels: number of pixels of each class, (K,), floating-point. No value is read by the host.
    """
    seen = pixels > 0
    weights = torch.where(seen, 1 / torch.log(1.02 + pixels / pixels.sum().clamp(min=1)), 0.0)
    return weights * seen.sum() / weights.sum().clamp(min=1)
