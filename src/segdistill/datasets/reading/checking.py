"""Look at every image and mask before a long training: a bad file is reported in the first minute."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.errors import UserError
from segdistill.progress import tracked

LABELS = 256
"""Labels are 0..K-1 with K at most 255, and the ignore label 255."""

STRIP = 2048
"""Rows that a teacher cache hashes together; with another number it would take its images for others."""

PIECE_ROWS = 512
"""Large images are read in pieces of as many rows, or of a multiple: few tiles of a file are decoded twice."""

PIECE_COLUMNS = 8192
"""Longest row of a piece: few images of whole rows in a strip, of which every row is decoded anew, are wider."""

PIECE_PIXELS = 2**22
"""Pixels of a piece, but where `PIECE_ROWS` rows are more."""

_TALLIED = 2**20
"""Pixels of labels that are looked at together."""

T = TypeVar("T")


@dataclass(frozen=True)
class LabelCounts:
    """Labelled pixels of a whole data set.

    Attributes:
        pixels: int64 (K,), pixels of each class.
        ignored: pixels with the ignore label.
    """

    pixels: Tensor
    ignored: int

    @property
    def shares(self) -> Tensor:
        """float64 (K,): the share of each class among all pixels, the ignored ones too."""
        return self.pixels.double() / max(1, int(self.pixels.sum()) + self.ignored)

    @property
    def two_values(self) -> bool:
        """Whether only the first class and the ignore label occur: 0/255 masks under the usual ignore label."""
        return bool(self.ignored and self.pixels[0] and not self.pixels[1:].any())


class LabelTally:
    """What the labels of one sample hold, summed over its windows.

    Args:
        dataset: says which labels there are.

    Attributes:
        counts: int64 (256,), pixels of each label.
        edges, slopes: pixels of a class that touch another label, and those of them that lie between two others.
        outside: labels that stand for nothing; of a window that holds one the rest is not counted.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.classes = len(dataset.classes)
        self.ignore_index = dataset.ignore_index
        self.unlabelled_index = dataset.unlabelled_index
        self.counts = np.zeros(LABELS, dtype=np.int64)
        self.edges = self.slopes = 0
        self.outside: set[int] = set()

    def add(self, labels: Tensor) -> None:
        """Further labels, int64 (h, w)."""
        rows = max(1, _TALLIED // labels.shape[1])
        for part in labels.split(rows):  # type: ignore[no-untyped-call]
            self._add(part)

    def _add(self, labels: Tensor) -> None:
        no_class = labels == self.ignore_index
        if self.unlabelled_index is not None:
            no_class |= labels == self.unlabelled_index
        known = no_class | ((labels >= 0) & (labels < self.classes))
        if not known.all():
            self.outside |= set(torch.unique(labels[~known]).tolist())
            return
        pixels = labels.to(torch.uint8).numpy()
        self.counts += np.bincount(pixels.ravel(), minlength=LABELS)
        # Edges against ignored pixels say nothing: 255 lies far above every class.
        border = edges(pixels) & ~no_class.numpy()
        self.edges += int(border.sum())
        self.slopes += int((slopes(pixels) & border).sum())

    @property
    def fault(self) -> str | None:
        """What is wrong with the labels, as the end of a sentence that begins with the sample."""
        if not self.outside:
            return None
        values = sorted(self.outside)
        shown = ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")
        return (
            f"holds the label value{'s' * (len(values) > 1)} {shown}, outside the classes 0 to {self.classes - 1} and "
            f"the ignore label {self.ignore_index}"
        )


@dataclass(frozen=True)
class SampleContent:
    """What a sound sample holds.

    Attributes:
        size: (height, width) in pixels.
        labels: its labels.
        blank: whether the image is of one value in each channel.
        largest: value in any channel.
        pixels: hash of the image's size, type and pixels.
    """

    size: tuple[int, int]
    labels: LabelTally
    blank: bool
    largest: float
    pixels: bytes


def check_dataset(dataset: SegmentationDataset, progress: bool = False, *, is_train: bool = True) -> LabelCounts:
    """Read every mask and every image of ``dataset`` once, and count the pixels of each class.

    Args:
        dataset: any split.
        progress: show a progress bar on the standard error stream.
        is_train: whether something is to be learnt from it. Another split may hold the first class alone, beside the
            ignore label: that is a warning on the standard error stream.

    Raises:
        UserError: see :func:`read_contents`; no class but the first occurs beside the ignore label in a split that is
            to be learnt from.
    """
    counts = count_all(dataset, (content.labels.counts for content in read_contents(dataset, progress)))
    if counts.two_values:  # every value is allowed, and nothing can be learnt
        told = (
            f"the {len(dataset)} masks from {dataset.ids[0]} on hold nothing but '{dataset.classes[0]}' and "
            f"the ignore label; masks written as 0/255 instead of 0/1 are the usual cause"
        )
        if is_train:
            raise UserError(f"{told}; set mask_values: {{255: 1}} for such masks")
        Console(stderr=True).out(f"warning: {told}", highlight=False)
    return counts


def read_contents(dataset: SegmentationDataset, progress: bool = False) -> Iterator[SampleContent]:
    """Every sample of ``dataset`` in order, read once from edge to edge.

    Args:
        dataset: any split.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: the first sample, in their order, whose image or mask is missing or broken, whose mask is of
            another size than its image, or holds a value or colour that is no class.
    """
    return in_threads(lambda index: _content(dataset, index), len(dataset), "checking images and masks", progress)


def count_all(dataset: SegmentationDataset, counts: Iterable[np.ndarray]) -> LabelCounts:
    """The sum of samples' ``counts``, int64 (256,) each."""
    total = torch.from_numpy(sum(counts, np.zeros(LABELS, dtype=np.int64)))
    return LabelCounts(pixels=total[: len(dataset.classes)].clone(), ignored=int(total[dataset.ignore_index]))


def in_threads(look: Callable[[int], T], number: int, text: str, progress: bool) -> Iterator[T]:
    """``look`` at each of ``number`` samples, several at a time; results in order, the first error ends it.

    Args:
        look: given the index of a sample.
        number: how many samples there are.
        text: what is done, for the bar.
        progress: show a progress bar on the standard error stream.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield from tracked(pool.map(look, range(number)), text, number, Console(stderr=True), progress)
    finally:
        pool.shutdown(cancel_futures=True)


def pieces(size: tuple[int, int]) -> Iterator[Window]:
    """Windows that cover an image of (height, width), so that one of any size takes little memory.

    Example:
        >>> [(piece.top, piece.height, piece.width) for piece in pieces((1200, 6000))]
        [(0, 512, 6000), (512, 512, 6000), (1024, 176, 6000)]
    """
    height, width = size
    columns = min(width, PIECE_COLUMNS)
    rows = max(1, PIECE_PIXELS // (PIECE_ROWS * columns)) * PIECE_ROWS
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Window(top, left, min(rows, height - top), min(columns, width - left))


def slopes(values: np.ndarray) -> np.ndarray:
    """Pixels that lie strictly between their left and right, or upper and lower, neighbours: bool (H, W)."""
    found = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        if values.shape[axis] < 3:
            continue
        lines, result = np.moveaxis(values, axis, 0), np.moveaxis(found, axis, 0)
        before, here, after = lines[:-2], lines[1:-1], lines[2:]
        result[1:-1] |= ((before < here) & (here < after)) | ((before > here) & (here > after))
    return found


def edges(values: np.ndarray) -> np.ndarray:
    """Pixels with another value right beside, above or below them: bool (H, W)."""
    found = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        lines, result = np.moveaxis(values, axis, 0), np.moveaxis(found, axis, 0)
        differ = lines[1:] != lines[:-1]
        result[1:] |= differ
        result[:-1] |= differ
    return found


def _content(dataset: SegmentationDataset, index: int) -> SampleContent:
    sample = dataset.open(index)
    tally = LabelTally(dataset)
    lowest, highest = [], []
    pixels = hashlib.blake2b(repr(sample.size).encode(), digest_size=16)
    # The image is read as well: a truncated one must not stop a run only when its turn comes.
    for piece in pieces(sample.size):
        image, labels = sample.window(piece)
        tally.add(labels)
        pixels.update(str(image.dtype).encode())
        pixels.update(image.contiguous().numpy().data)
        lowest.append(image.amin((1, 2)))
        highest.append(image.amax((1, 2)))
    if tally.fault is not None:
        raise UserError(f"sample {dataset.ids[index]} {tally.fault}")
    low, high = torch.stack(lowest).amin(0), torch.stack(highest).amax(0)
    return SampleContent(sample.size, tally, torch.equal(low, high), float(high.amax()), pixels.digest())
