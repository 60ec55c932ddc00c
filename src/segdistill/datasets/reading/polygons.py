"""Data sets whose labels are polygons: drawn as label maps when they are read."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.files import FileDataset, ignored_where_missing
from segdistill.datasets.reading.images import image_size, open_image, resized
from segdistill.datasets.reading.masks import MaskReader, resized_labels
from segdistill.datasets.reading.rasters import require_rasterio
from segdistill.errors import UserError

BACKGROUND = "background"
"""The class of pixels in no polygon."""

Ring = tuple[tuple[float, float], ...]
"""Corners (x, y) in pixels; the upper left corner of the image is (0, 0)."""


@dataclass(frozen=True)
class Area:
    """One labelled object.

    Attributes:
        label: its class.
        rings: its parts.
        mask: its pixels, bool (H, W), of an object that is given by them instead.
    """

    label: int
    rings: tuple[Ring, ...]
    mask: NDArray[np.bool_] | None = None

    @property
    def size(self) -> float:
        """Square pixels, of rings by the shoelace formula."""
        if self.mask is not None:
            return float(self.mask.sum())
        total = 0.0
        for ring in self.rings:
            x, y = np.array(ring).T
            total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
        return total


def drawn(areas: Sequence[Area], size: tuple[int, int], fill: int) -> Tensor:
    """The label map, int64 (H, W), of areas: a pixel is in the polygon that its centre is in.

    Smaller areas lie on larger ones, so that a wheel on a car stays a wheel.

    Args:
        areas: any number.
        size: (height, width) in pixels.
        fill: label of pixels in no area.
    """
    labels = np.full(size, fill, dtype=np.uint8)
    rasterize = importlib.import_module("rasterio.features").rasterize
    largest_first = sorted(areas, key=lambda area: -area.size)
    for masked, group in groupby(largest_first, key=lambda area: area.mask is not None):
        if masked:
            for area in group:
                labels[area.mask] = area.label
        else:  # in one call, which is faster
            rings = ((ring, area.label) for area in group for ring in area.rings)
            shapes = [({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, label) for ring, label in rings]
            rasterize(shapes, out=labels)
    return torch.from_numpy(labels.astype(np.int64))


class PolygonDataset(FileDataset):
    """Images and files of polygons.

    Args:
        pairs: image and annotation file of every sample.
        classes: names of the classes that polygons may have.
        background: whether pixels in no polygon are a class of their own, the first; if not, they are ignored.
        palette: a colour per class, the background among them.
        resize: see :class:`FileDataset`.

    Raises:
        UserError: rasterio, which draws the polygons, is not installed.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        *,
        classes: Sequence[str],
        background: bool,
        palette: Sequence[str | Sequence[int]] | None,
        resize: Sequence[int] | None,
    ) -> None:
        names = [BACKGROUND, *classes] if background else list(classes)
        super().__init__(pairs, MaskReader(len(names)), classes=names, palette=palette, resize=resize)
        require_rasterio("drawing polygons")
        self._first = int(background)

    @abstractmethod
    def areas(self, index: int, size: tuple[int, int]) -> list[Area]:
        """The objects of one sample, whose image is of ``size``; labels count from 0, without the background."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, valid = open_image(self.pairs[index][0]).whole()
        labels = ignored_where_missing(self._labels(index, (image.shape[1], image.shape[2])), valid)
        return resized(image, self.resize), resized_labels(labels, self.resize)

    def labels(self, index: int) -> Tensor:
        """See `FileDataset.labels`."""
        return self._labels(index, image_size(self.pairs[index][0]))

    def _labels(self, index: int, size: tuple[int, int]) -> Tensor:
        areas = [replace(area, label=area.label + self._first) for area in self.areas(index, size)]
        return drawn(areas, size, 0 if self._first else IGNORE_INDEX)


def ring_of(numbers: Sequence[float], where: str) -> Ring:
    """Corners from the numbers x, y, x, y and so on.

    Raises:
        UserError: an odd number of them, fewer than three corners, or a number that is not finite.
    """
    if len(numbers) % 2 or len(numbers) < 6 or not all(np.isfinite(numbers)):
        raise UserError(f"{where} holds a polygon of {len(numbers)} numbers; expected x and y of three corners or more")
    return tuple(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))
