"""A model on images of any size: the one way to class scores, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from segdistill.data.resizing import scores_at_size
from segdistill.data.tiling import Grid, Piece, Scorer, Span, Tiling, blended
from segdistill.datasets.base import Window
from segdistill.datasets.reading.strips import read_resized
from segdistill.networks.network import Network

WINDOWS_AT_ONCE = 8
"""Windows per batch on a device that is the faster for it."""

STRIP_PIXELS = 2**20
"""Scores that are brought to another size are computed in strips of about so many pixels."""


class ReadableImage(Protocol):
    """An image of which parts are read."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        """A part, uint8 or float32 (C, h, w), and where it has no data, bool (h, w); None: nowhere."""


@dataclass(frozen=True)
class TiledModel:
    """A model, and how images of any size go through it.

    Args:
        scorer: class scores (B, K, H, W) of images (B, C, H, W) on ``device``.
        classes: K.
        tiling: how an image is divided into windows.
        resize: (height, width) to which every image is resized before it goes through the model; the scores are
            interpolated back to the image's own size. None: images go through at the size that they have.
        device: where the model computes.
        batch_size: windows per batch; None: 1 on a CPU, which gains nothing from batches, else `WINDOWS_AT_ONCE`.
    """

    scorer: Scorer
    classes: int
    tiling: Tiling = field(default_factory=Tiling)
    resize: tuple[int, int] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int | None = None

    @classmethod
    def of(cls, network: Network, *, window: int | None = None, resize: tuple[int, int] | None = None) -> TiledModel:
        """A network on its own device, in windows of its size where it takes one alone; ``window`` as in `Tiling`."""
        tiling = Tiling.within(network.info.size, window, network.description.stride)
        return cls(network, network.num_classes, tiling, resize, network.device)

    def grid(self, size: tuple[int, int]) -> Grid:
        """The parts of an image of ``size`` (height, width) in which its scores are computed, one after another."""
        if self.resize is None:
            return self.tiling.grid(size)
        height, width = size
        rows = min(height, max(1, STRIP_PIXELS // width))
        return Grid(
            tuple(Span(first, min(rows, height - first), 0, 0) for first in range(0, height, rows)),
            (Span(0, width, 0, 0),),
        )

    def pieces(self, image: ReadableImage, first_row: int = 0) -> Iterator[Piece]:
        """The scores of an image, piece by piece from top left to bottom right, each pixel once.

        With ``resize`` the image is read in strips, see `read_resized`; else see `blended`.

        Args:
            image: its parts are read in another thread.
            first_row: the row of `grid` to begin with.
        """
        if self.resize is None:
            yield from self._blended(image, first_row)
            return
        lacking = False

        def read(window: Window) -> Tensor:
            nonlocal lacking
            pixels, missing = image.read(window)
            lacking = lacking or (missing is not None and bool(missing.any()))
            return pixels

        scores = self.scores(read_resized(read, image.size, self.resize))
        for piece in self.at_size(scores, image.size):
            if piece.row >= first_row:  # where it lacks data is read again, since it may be too much to be kept
                yield piece._replace(missing=image.read(piece.window)[1] if lacking else None)

    def scores(self, pixels: Tensor) -> Tensor:
        """All scores, float32 (K, H, W), of an image in memory (C, H, W) at the size that it has."""
        found = torch.empty(self.classes, *pixels.shape[-2:], device=self.device)
        for piece in self._blended(_InMemory(pixels)):
            piece.window.cut(found).copy_(piece.scores)
        return found

    def at_size(self, scores: Tensor, size: tuple[int, int]) -> Iterator[Piece]:
        """Scores (K, h, w) of a resized image, brought to the image's own ``size`` (height, width), piece by piece."""
        for number, row in enumerate(self.grid(size).rows):
            window = Window(row.start, 0, row.length, size[1])
            yield Piece(number, window, scores_at_size(scores, size, row.start, row.length), None)

    def _blended(self, image: ReadableImage, first_row: int = 0) -> Iterator[Piece]:
        return blended(
            image.read,
            self.scorer,
            self.tiling.grid(image.size),
            classes=self.classes,
            device=self.device,
            batch_size=self.batch_size or (1 if self.device.type == "cpu" else WINDOWS_AT_ONCE),
            first_row=first_row,
        )


class _InMemory:
    """An image (C, H, W) in memory, of which nothing is missing."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.size = pixels.shape[-2], pixels.shape[-1]

    def read(self, window: Window) -> tuple[Tensor, None]:
        """See `ReadableImage`."""
        return window.cut(self.pixels), None
