"""The one tiling and blending of all scoring and prediction: overlapping windows, scores blended without a seam.

Validation in the training loop, `evaluate`, `compare`, `predict`, `play` and exported files all go through `blended`
over the windows of `Tiling.grid`, so that what is scored is what is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.data.ahead import ahead
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.errors import UserError
from segdistill.networks.normalisation import of_one_number

Scorer = Callable[[Tensor], Tensor]
"""Class scores (B, K, H, W), before any softmax, of images (B, C, H, W), uint8 in 0..255 or floating."""

WHOLE = 2048
"""Longest side, in pixels, of an image that goes through a network whole, where no window is named. Cityscapes, whose
scores are published for whole images, is 2048 wide."""

WINDOW = 1024
"""Side of the windows of larger images, in pixels, where none is named."""

OVERLAP = 1 / 16
"""Share of a window's side that it has in common with its neighbour. Twice as much changed mIoU by less than 0.3 points
either way, and costs an eighth of the speed (docs/benchmarks/prediction.md)."""


@dataclass(frozen=True)
class Tiling:
    """How an image is divided into the windows that go through a network.

    Args:
        window: longest side of a window in pixels. An image is divided along a side that is longer. None: images of at
            most `WHOLE` pixels a side go through whole, larger ones in windows of `WINDOW`.
        overlap: share of a window's side that it has in common with its neighbour, 0 to 1/3.
        stride: every window begins at a multiple of this, see `spans`.

    Example:
        >>> grid = Tiling(window=512, stride=32).grid((400, 1000))
        >>> [(span.start, span.length) for span in grid.columns], len(grid.rows)
        ([(0, 384), (352, 384), (704, 296)], 1)
    """

    window: int | None = None
    overlap: float = OVERLAP
    stride: int = 1

    @classmethod
    def within(cls, size: tuple[int, int] | None, window: int | None, stride: int) -> Tiling:
        """The tiling for a model that takes images of one ``size`` (height, width) alone; None: of any.

        Four strides go to a window at least; scores near the edges of smaller ones then differ a little from those of
        the whole image.
        """
        if size is None:
            return cls(window, stride=stride)
        longest = min(size) if window is None else min(*size, window)
        return cls(longest, stride=min(stride, max(1, longest // 4)))

    def longest(self, size: tuple[int, int]) -> int:
        """Longest side of the windows of an image of ``size`` (height, width); no side up to it is divided."""
        if self.window is not None:
            return self.window
        return WHOLE if max(size) <= WHOLE else WINDOW

    def is_whole(self, size: tuple[int, int]) -> bool:
        """Whether an image of ``size`` (height, width) goes through a network in one piece."""
        return max(size) <= self.longest(size)

    def in_pixels(self, longest: int) -> tuple[int, int]:
        """Longest side of a window and what neighbours share, as multiples of the stride: 4 strides at least."""
        window = max(4 * self.stride, longest) // self.stride * self.stride
        shared = min(math.ceil(window * self.overlap / self.stride), window // (3 * self.stride)) * self.stride
        return window, shared

    def grid(self, size: tuple[int, int]) -> Grid:
        """The windows of an image of ``size`` (height, width)."""
        longest = self.longest(size)
        window, shared = self.in_pixels(longest)
        rows, columns = (
            spans(side, window=window, overlap=shared, stride=self.stride) if side > longest else whole_span(side)
            for side in size
        )
        return Grid(rows, columns)


class Span(NamedTuple):
    """A window along one side of an image, in pixels.

    Attributes:
        start: its first pixel.
        length: how many it covers.
        before: how many it shares with the window before it; 0 for the first one.
        after: how many it shares with the next; 0 for the last one.
    """

    start: int
    length: int
    before: int
    after: int

    @property
    def own(self) -> int:
        """How many pixels it covers that no later window does."""
        return self.length - self.after


class Piece(NamedTuple):
    """A part of an image whose scores no further window changes.

    Attributes:
        row: the number of the row of windows that completed it.
        window: where it lies.
        scores: (K, h, w), float32, on the device they were computed on.
        missing: bool (h, w), where the image has no data; None: nowhere.
    """

    row: int
    window: Window
    scores: Tensor
    missing: Tensor | None


@dataclass(frozen=True)
class Grid:
    """The windows of an image.

    Attributes:
        rows: windows along its height.
        columns: windows along its width.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def over(cls, size: tuple[int, int], *, window: int, overlap: int, stride: int) -> Grid:
        """The windows of an image of ``size`` (height, width); the rest as in `spans`."""
        height, width = (spans(side, window=window, overlap=overlap, stride=stride) for side in size)
        return cls(height, width)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def pixels(self, first_row: int = 0) -> int:
        """The pixels that go through a network, those in several windows counted several times."""
        return sum(row.length for row in self.rows[first_row:]) * sum(column.length for column in self.columns)


def spans(length: int, *, window: int, overlap: int, stride: int = 1) -> tuple[Span, ...]:
    """Windows along one side, as few as can be, each as short as that allows.

    Every window begins at a multiple of ``stride``: a network of that stride sees a window on the grid on which it sees
    the whole image, and gives the same scores for all that lies deep enough in the window.

    Args:
        length: the side in pixels.
        window: the longest a window may be, a multiple of ``stride``.
        overlap: how much neighbours share, a multiple of ``stride`` and at most a third of ``window``, so that no
            pixel lies in three windows.
        stride: the coarsest stride in the network.

    Example:
        >>> [(span.start, span.length) for span in spans(1000, window=512, overlap=64, stride=32)]
        [(0, 384), (320, 384), (640, 360)]
    """
    if length <= window:
        return whole_span(length)
    count = math.ceil((length - overlap) / (window - overlap))
    longest = math.ceil((length + (count - 1) * overlap) / count / stride) * stride
    starts = range(0, count * (longest - overlap), longest - overlap)
    return tuple(
        Span(
            start,
            min(longest, length - start),
            before=overlap if start > 0 else 0,
            after=overlap if start + longest - overlap < starts.stop else 0,
        )
        for start in starts
    )


def whole_span(length: int) -> tuple[Span, ...]:
    """A side that is not divided."""
    return (Span(0, length, 0, 0),)


def rising(overlap: int) -> Tensor:
    """The weight of a window over what it shares with the window before it, float32 (overlap,).

    A Hann window's rising half, sin^2, over the middle half; 0 before it, so that the outermost pixels, where a network
    sees least of what is around them, count nowhere; 1 after it. The other window has the rest, so that weights add up
    to 1 and need no division.

    Example:
        >>> [round(weight, 3) for weight in rising(8).tolist()]
        [0.0, 0.0, 0.038, 0.309, 0.691, 0.962, 1.0, 1.0]
    """
    margin = overlap // 4
    middle = overlap - 2 * margin
    ramp = torch.sin((torch.arange(middle) + 0.5) / max(1, middle) * (math.pi / 2)) ** 2
    return torch.cat([torch.zeros(margin), ramp, torch.ones(margin)])


def blended(
    read: Callable[[Window], tuple[Tensor, Tensor | None]],
    scores: Scorer,
    grid: Grid,
    *,
    classes: int,
    device: torch.device,
    batch_size: int = 1,
    first_row: int = 0,
) -> Iterator[Piece]:
    """The scores of an image, piece by piece from top left to bottom right, each pixel once.

    Held are the windows of three batches and the scores of one, of the strip that two rows of windows share, and of the
    one that two windows share; the next windows are read while a network is at work.

    Args:
        read: a window of the image (C, h, w), uint8 or float32, and where it has no data, bool (h, w), or None for
            nowhere; called in another thread, one call at a time. A window without any data does not go through the
            network.
        scores: what a network says of a batch of windows.
        grid: the windows.
        classes: the number of classes, K.
        device: where the network wants its images.
        batch_size: windows per batch.
        first_row: the row of windows to begin with; the one before it is computed again for what they share.
    """
    order = [
        (number, row, column)
        for number, row in enumerate(grid.rows)
        if number >= first_row - 1
        for column in grid.columns
    ]
    width = grid.columns[-1].start + grid.columns[-1].length
    ramps = {span.before: rising(span.before).to(device) for span in (*grid.rows, *grid.columns)}
    above = below = torch.empty(0)
    beside = torch.empty(0)
    for (number, row, column), values, missing in _scored(order, read, scores, classes, device, batch_size):
        if column.start == 0:
            above = below
            below = torch.empty(classes, row.after, width, device=device)
        _fade(values.transpose(1, 2), row, ramps)
        _fade(values, column, ramps)
        if column.before:
            values[:, :, : column.before] += beside
        beside = values[:, :, column.own :].clone()
        own = values[:, :, : column.own]
        across = slice(column.start, column.start + column.own)
        if row.before and number > order[0][0]:
            own[:, : row.before] += above[:, :, across]
        below[:, :, across] = own[:, row.own :]
        if number >= first_row:
            window = Window(row.start, column.start, row.own, column.own)
            kept = None if missing is None else missing[: row.own, : column.own]
            yield Piece(number, window, own[:, : row.own], kept)


def piece_labels(piece: Piece) -> Tensor:
    """Class indices of a piece, uint8 (h, w) on the CPU, and 255 where there is no data."""
    # On a CPU argmax over the first dimension takes five times as long.
    labels = piece.scores.max(0).indices.to("cpu", torch.uint8)
    if piece.missing is not None:
        labels[piece.missing] = IGNORE_INDEX
    return labels


def _fade(values: Tensor, span: Span, ramps: dict[int, Tensor]) -> None:
    """Weighs ``values`` (..., length) by their window's weights, in place."""
    if span.before:
        values[..., : span.before] *= ramps[span.before]
    if span.after:
        values[..., span.own :] *= 1 - ramps[span.after]


Place = tuple[int, Span, Span]
"""Number of a row, the row, the column."""


def _scored(
    order: Sequence[Place],
    read: Callable[[Window], tuple[Tensor, Tensor | None]],
    scores: Scorer,
    classes: int,
    device: torch.device,
    batch_size: int,
) -> Iterator[tuple[Place, Tensor, Tensor | None]]:
    """Each window's place, its scores (K, h, w), float32 and free to be changed, and where it has no data."""

    def read_all(places: Sequence[Place]) -> list[tuple[Tensor, Tensor | None]]:
        return [read(Window(row.start, column.start, row.length, column.length)) for _, row, column in places]

    with ThreadPoolExecutor(1, "windows") as reader:
        for places, found in ahead(reader, read_all, list(_batches(order, batch_size))):
            seen = [image for image, missing in found if missing is None or not missing.all()]
            results = iter(run_scorer(scores, torch.stack(seen).to(device), classes) if seen else ())
            for place, (image, missing) in zip(places, found, strict=True):
                if missing is not None and missing.all():
                    values = torch.zeros(classes, *image.shape[-2:], device=device)
                else:
                    values = next(results).to(torch.float32, copy=True)
                yield place, values, missing


def run_scorer(scores: Scorer, images: Tensor, classes: int) -> Tensor:
    """Scores of a batch of images on their own device, checked.

    Args:
        scores: of a model.
        images: uint8 or floating (B, C, H, W).
        classes: the number of classes, K.

    Returns:
        (B, K, H, W).

    Raises:
        UserError: too little memory, an image too small for the model, or scores of another shape.
    """
    count, _, height, width = images.shape
    try:
        with torch.no_grad():
            found = scores(images)
    except torch.OutOfMemoryError:
        raise UserError(
            f"{images.device} has too little memory for {count} windows of {width} x {height} pixels at once; choose a "
            "smaller --batch-size or --window"
        ) from None
    except ValueError as error:
        if not of_one_number(error):
            raise
        raise UserError(f"the model cannot take {width} x {height} pixels: too few for its normalisation") from error
    if found.shape != (count, classes, height, width):
        raise UserError(
            f"the model gives scores of shape {tuple(found.shape)}; expected {(count, classes, height, width)} for "
            f"{classes} classes"
        )
    return found


def _batches(order: Sequence[Place], batch_size: int) -> Iterator[list[Place]]:
    """Windows in order, in batches of one size."""
    for _, alike in groupby(order, key=lambda place: (place[1].length, place[2].length)):
        places = list(alike)
        for first in range(0, len(places), batch_size):
            yield places[first : first + batch_size]
