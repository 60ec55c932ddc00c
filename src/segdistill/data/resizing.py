"""Sizes as a user writes them, and class scores brought to the size of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdistill.errors import UserError


def parse_size(size: str | Sequence[int], argument: str) -> tuple[int, int]:
    """Parse (height, width) from ``"512x768"``, ``"512"`` for a square, or two numbers.

    Raises:
        UserError: for anything else.

    Example:
        >>> parse_size("512x768", "size"), parse_size("512", "size"), parse_size([96, 128], "size")
        ((512, 768), (512, 512), (96, 128))
    """
    sides: list[Any] = size.lower().split("x") if isinstance(size, str) else list(size)
    if all(str(side).isdecimal() and int(side) > 0 for side in sides) and len(sides) in (1, 2):
        return int(sides[0]), int(sides[-1])
    raise UserError(f"{argument} is {size!r}, expected height and width in pixels, such as 512x512")


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
