"""A mask of valid pixels at another resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.losses import _inputs

_Size = tuple[int, int]

#: What was shrunk within `shrunk_once`, by id of the mask and size; with the mask, so that its id stays its own.
_shrunk: ContextVar[dict[tuple[int, _Size], tuple[Tensor, Tensor]] | None] = ContextVar("shrunk", default=None)


@contextmanager
def shrunk_once() -> Iterator[None]:
    """Within, `shrink_valid` computes each mask at each size once, whichever method calls it.

    Masks must not be changed in place within.
    """
    token = _shrunk.set({})
    try:
        yield
    finally:
        _shrunk.reset(token)


def shrink_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask at ``size``: a position is valid when at least half of the area it covers is.

    Areas are exact for any ratio, also where pixels straddle two positions, and also when enlarging.

    Args:
        valid: bool (B, H, W).
        size: (h, w), both above 0.

    Returns:
        bool (B, h, w).

    Raises:
        UserError: the shape or dtype does not fit, or a side is not above 0.

    Example:
        >>> shrink_valid(torch.tensor([[[True, True, False, True, False, False]]]), (1, 2))
        tensor([[[ True, False]]])
    """
    _inputs.check_valid(valid)
    height, width = size
    if height < 1 or width < 1:
        raise UserError(f"size is {tuple(size)}, expected two numbers above 0")
    if valid.shape[1:] == (height, width):
        return valid
    known = _shrunk.get()
    if known is None:
        return _shrink(valid, (height, width))
    key = (id(valid), (height, width))
    if key not in known:
        known[key] = (valid, _shrink(valid, (height, width)))
    return known[key][1]


def _shrink(valid: Tensor, size: tuple[int, int]) -> Tensor:
    # Whole numbers below 2^24 throughout, so that float32 decides "half" without rounding.
    return 2 * _area_sums(valid.float(), size) >= valid.shape[1] * valid.shape[2]


def shrink_weights(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights of pixels at ``size``: each position has the mean weight of the area it covers.

    Areas are exact for any ratio, as in `shrink_valid`.

    Args:
        weights: floating-point (B, H, W).
        size: (h, w), both above 0.

    Returns:
        (B, h, w), float32.

    Example:
        >>> shrink_weights(torch.tensor([[[1.0, 3.0, 0.0, 2.0]]]), (1, 2))
        tensor([[[2., 1.]]])
    """
    if weights.shape[1:] == tuple(size):
        return weights.float()
    return _area_sums(weights.float(), size) / (weights.shape[1] * weights.shape[2])


def _area_sums(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w): sum of the values times the area each shares with a position, in units of 1 / (H W h w)."""
    with torch.autocast(values.device.type, enabled=False):
        rows = _overlap(size[0], values.shape[1], values.device)
        columns = _overlap(size[1], values.shape[2], values.device)
        return rows @ values @ columns.T


def _overlap(cells: int, pixels: int, device: torch.device) -> Tensor:
    """(cells, pixels): common length of each cell and pixel of a line that is cells * pixels long."""
    cell = torch.arange(cells, device=device).unsqueeze(1) * pixels
    pixel = torch.arange(pixels, device=device) * cells
    length = torch.minimum(cell + pixels, pixel + cells) - torch.maximum(cell, pixel)
    return length.clamp(min=0).float()
