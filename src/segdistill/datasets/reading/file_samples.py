"""Samples in their files, of which windows are read."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segdistill.datasets.base import Sample, Window
from segdistill.datasets.reading.files import ignored_where_missing, refuse_other_size
from segdistill.datasets.reading.images import ImageFile
from segdistill.datasets.reading.masks import MaskFile, MaskReader
from segdistill.datasets.reading.rasters import RasterFile
from segdistill.errors import UserError


class Labels(Protocol):
    """A mask file of which windows are read, as labels int64 (h, w)."""

    path: Path

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def read(self, window: Window) -> Tensor:
        """A part."""


class FileSample(Sample):
    """A sample in its files.

    Args:
        image: of any bands.
        mask: its labels.
        heights: one more channel.
    """

    def __init__(self, image: ImageFile, mask: Labels, heights: Heights | None = None) -> None:
        self.image = image
        self.mask = mask
        self.heights = heights

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size = self.image.size
        refuse_other_size(self.image.path, size, self.mask.path, self.mask.size)
        return size

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        """See `Sample.window`; where the image is not valid, its labels are ignored."""
        image, valid = self.image.read(window)
        labels = ignored_where_missing(self.mask.read(window), valid)
        if self.heights is not None:
            image = torch.cat([image, self.heights.read(window, self.size).to(image.dtype)])
            if valid is not None:
                image[:, ~valid] = 0
        return image, labels


class WindowedMask:
    """A mask file and what turns it into labels."""

    def __init__(self, path: Path, reader: MaskReader) -> None:
        self.path = path
        self._reader = reader
        self._file = MaskFile(path)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._file.size

    def read(self, window: Window) -> Tensor:
        """Labels of a part."""
        return self._reader.decode(self._file.read(window), self.path)


class LabelMap:
    """A converted mask, whose pixels are labels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RasterFile(path)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._file.header.size

    def read(self, window: Window) -> Tensor:
        """Labels of a part."""
        return torch.from_numpy(self._file.read((1,), window)[0].astype(np.int64))


class Heights:
    """One band of heights beside an image; where it is a pixel too small its last row or column is repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RasterFile(path)
        if self._file.header.dtype != "uint8":
            raise UserError(f"{path} holds {self._file.header.dtype} pixels; expected heights of 8 bits")

    def read(self, window: Window, size: tuple[int, int]) -> Tensor:
        """Heights, uint8 (1, h, w), of an image of ``size``."""
        rows, columns = self._file.header.size
        short = (size[0] - rows, size[1] - columns)
        if not all(0 <= pixels <= 1 for pixels in short):
            raise UserError(f"{self.path} is {columns} x {rows} pixels but its image is {size[1]} x {size[0]}")
        # A window that lies in the missing line alone still reads the line before it.
        top, left = min(window.top, rows - 1), min(window.left, columns - 1)
        height, width = min(window.height, rows - top), min(window.width, columns - left)
        pixels = self._file.read((1,), Window(top, left, height, width))
        margins = ((0, 0), (0, window.height - height), (0, window.width - width))
        return torch.from_numpy(np.pad(pixels, margins, mode="edge"))
