"""The one reduction of this library: a mean over what is valid, and exactly 0 where nothing is."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_pixels(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of ``values`` (B, H, W) over the batch's valid pixels; weighted, where ``valid`` holds weights."""
    if valid is None:
        return values.mean()
    if valid.dtype == torch.bool:
        return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)
    weights = valid.to(values.dtype)
    total = weights.sum()
    return (torch.where(weights > 0, values, 0.0) * weights).sum() / torch.where(total > 0, total, 1.0)


def mean_over_images(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of ``values`` (B,) over the images that have a valid pixel."""
    if valid is None:
        return values.mean()
    seen = valid.flatten(1).any(dim=1)
    return torch.where(seen, values, 0.0).sum() / seen.sum().clamp(min=1)
