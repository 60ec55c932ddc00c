"""Class scores brought to the size of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def scores_at_size(scores: Tensor, size: tuple[int, int], first: int, count: int) -> Tensor:
    """Interpolate class scores bilinearly to the size of the image that they are of; some rows of the result.

    Args:
        scores: floating (K, h, w).
        size: (height, width) of the image.
        first: the first row of the image that is wanted.
        count: how many rows.

    Returns:
        float32 (K, count, width). Rows do not depend on which other rows are asked for.
    """
    height, width = size
    here = (torch.arange(first, first + count, device=scores.device) + 0.5) * (scores.shape[1] / height) - 0.5
    here = here.clamp(0, scores.shape[1] - 1)
    above = here.long()
    below = (above + 1).clamp(max=scores.shape[1] - 1)
    rows = torch.lerp(scores[:, above].float(), scores[:, below].float(), (here - above)[:, None])
    return functional.interpolate(rows[None], size=(count, width), mode="bilinear", align_corners=False)[0]
