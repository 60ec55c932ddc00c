"""Images that may be larger than memory, resized while they are read strip by strip."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.datasets.reading.images import resized

STRIP_PIXELS = 2**24
"""Images of more pixels are read in strips of about so many."""


def read_resized(read: Callable[[Window], Tensor], size: tuple[int, int], resize: tuple[int, int]) -> Tensor:
    """An image resized as `resized` does it, of which no more than a strip is in memory at once.

    A few values of images in strips may be another by rounding, at most by a level.

    Args:
        read: gives a part of the image, uint8 or float32 (C, h, w).
        size: (height, width) of the image.
        resize: (height, width) of the result.
    """
    height, width = size
    if height * width <= STRIP_PIXELS:
        return resized(read(Window(0, 0, height, width)), resize)
    scale = height / resize[0]
    reach = math.ceil(max(1.0, scale)) + 1  # rows of the image, above and below, that a row of the result depends on
    rows = max(1, int(STRIP_PIXELS / width / scale))  # of the result in a strip
    parts = []
    for first in range(0, resize[0], rows):
        last = min(first + rows, resize[0])
        top, bottom = max(0, math.floor(first * scale) - reach), min(height, math.ceil(last * scale) + reach)
        strip = read(Window(top, 0, bottom - top, width))
        box = (0.0, first * scale - top, float(width), min(last * scale, height) - top)
        parts.append(_part(strip, (last - first, resize[1]), box))
    return torch.cat(parts, dim=1)


def scored_sample(dataset: SegmentationDataset, index: int, resize: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A sample as it is scored: its image resized, uint8 or float32 (C, h, w), its labels, uint8, at their own size.

    Args:
        dataset: at the size of its files.
        index: of the sample.
        resize: (height, width) of the image.
    """
    sample = dataset.open(index)
    labels = torch.empty(sample.size, dtype=torch.uint8)

    def read(window: Window) -> Tensor:
        pixels, found = sample.window(window)
        window.cut(labels).copy_(found)
        return pixels

    return read_resized(read, sample.size, resize), labels


def _part(strip: Tensor, size: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
    """What ``box`` (left, top, right, bottom) of a strip becomes; PIL looks beyond it, which torch cannot."""

    def one(pixels: np.ndarray) -> Tensor:
        made = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, box)
        return torch.from_numpy(np.array(made))

    if strip.dtype == torch.uint8 and len(strip) == 3:
        return one(strip.permute(1, 2, 0).contiguous().numpy()).permute(2, 0, 1)
    return torch.stack([one(channel.contiguous().numpy()) for channel in strip])
