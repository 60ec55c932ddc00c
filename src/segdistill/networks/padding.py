"""Padding to a size that a network takes."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad at the right and at the bottom until height and width are divisible by ``multiple``.

    The last row and column are repeated: a value that suits uint8 and float images and every network's mean
    and std alike, so that one padded batch can go to student and teacher.

    Args:
        images: (B, C, H, W), any dtype.
        multiple: what height and width shall be divisible by, at least 1.

    Returns:
        (B, C, H', W'); ``images`` itself where nothing is to be done.

    Example:
        >>> tuple(pad_to_multiple(torch.zeros(1, 3, 97, 131), 32).shape)
        (1, 3, 128, 160)
    """
    height, width = images.shape[-2:]
    return pad_to_size(images, (height + -height % multiple, width + -width % multiple))


def pad_to_size(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad at the right and at the bottom up to a size; see `pad_to_multiple`.

    Args:
        images: (B, C, H, W), any dtype, not larger.
        size: (height, width).

    Example:
        >>> tuple(pad_to_size(torch.zeros(1, 3, 97, 131), (128, 131)).shape)
        (1, 3, 128, 131)
    """
    below, right = size[0] - images.shape[-2], size[1] - images.shape[-1]
    # Not F.pad(mode="replicate"): it takes no uint8.
    if below:
        images = torch.cat([images, images[..., -1:, :].expand(-1, -1, below, -1)], dim=-2)
    if right:
        images = torch.cat([images, images[..., -1:].expand(-1, -1, -1, right)], dim=-1)
    return images
