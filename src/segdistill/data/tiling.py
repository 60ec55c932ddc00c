"""Evaluation of images that are too large for a network: overlapping windows, each pixel counted once."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from segdistill.datasets.base import Sample, SegmentationDataset, Window

OVERLAP = 0.25
"""Share of a window's side that it has in common with its neighbour, at least."""


class Tile(NamedTuple):
    """A window that goes through a network, and the part of it whose prediction is kept.

    Attributes:
        window: what the network sees.
        kept: the part, in pixels of the image.
    """

    window: Window
    kept: Window


def overlapping_tiles(size: tuple[int, int], longest: int) -> list[Tile]:
    """Windows that cover an image, of equal size, whose kept parts cover each pixel once.

    A prediction is worst at the border of what a network sees, so that of two windows that overlap each is kept up to
    the middle of what they have in common.

    Args:
        size: (height, width) of the image.
        longest: side of the windows in pixels; a side of the image that is no longer is not divided.

    Example:
        >>> [(tile.window.left, tile.kept.left, tile.kept.width) for tile in overlapping_tiles((64, 200), 100)]
        [(0, 0, 75), (50, 75, 50), (100, 125, 75)]
    """
    rows, columns = (_divided(length, longest) for length in size)
    return [
        Tile(
            Window(top, left, min(longest, size[0]), min(longest, size[1])),
            Window(first_row, first_column, last_row - first_row, last_column - first_column),
        )
        for top, first_row, last_row in rows
        for left, first_column, last_column in columns
    ]


class EvaluationTiles(Dataset[tuple[Tensor, Tensor]]):
    """Every image of a data set in overlapping windows, with labels only where a window's prediction is kept.

    Elsewhere a window's labels are the ignore label, so that scores count each pixel of an image exactly once.

    Args:
        dataset: any split; the size of each image is looked up.
        longest: side of the windows in pixels.
    """

    def __init__(self, dataset: SegmentationDataset, longest: int) -> None:
        self.dataset = dataset
        self.tiles = [
            (index, tile)
            for index in range(len(dataset))
            for tile in overlapping_tiles(dataset.open(index).size, longest)
        ]
        self._open: tuple[int, Sample] | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        index, (window, kept) = self.tiles[number]
        image, labels = self._sample(index).window(window)
        within = Window(kept.top - window.top, kept.left - window.left, kept.height, kept.width)
        counted = labels.new_full(labels.shape, self.dataset.ignore_index)
        within.cut(counted).copy_(within.cut(labels))
        return image, counted

    def _sample(self, index: int) -> Sample:
        # The windows of an image follow each other, and a file that has no windows is decoded for the first of them.
        if self._open is None or self._open[0] != index:
            self._open = index, self.dataset.open(index)
        return self._open[1]


def _divided(length: int, longest: int) -> list[tuple[int, int, int]]:
    """(start, first kept, last kept + 1) of each window along one side."""
    if length <= longest:
        return [(0, 0, length)]
    count = math.ceil((length - longest) / (longest * (1 - OVERLAP))) + 1
    starts = [round(number * (length - longest) / (count - 1)) for number in range(count)]
    middles = [(start + longest + after) // 2 for start, after in itertools.pairwise(starts)]
    return list(zip(starts, [0, *middles], [*middles, length], strict=True))
