"""Reading every sample of a split once, whatever is wrong with some of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Sample, Window
from segdistill.datasets.files import FileDataset
from segdistill.datasets.images import decoded
from segdistill.datasets.masks import MaskReader
from segdistill.errors import UserError
from segdistill.inspection.duplicates import Fingerprint, FingerprintMaker
from segdistill.inspection.mask_values import RefusedMask, edges, examine, slopes
from segdistill.inspection.pairing import TolerantFiles

LABELS = 256
"""Labels are 0..K-1 with K at most 255, and the ignore label 255."""

WINDOW = 2048
"""Longest side of what is looked at at once, in pixels: an aerial image is a hundred times as large."""

_ORIENTATION = 274  # the EXIF tag; 1 is upright

# AVIF files reach PIL under other names too, and its decoder raises RuntimeError; a header may ask for any memory.
_UNREADABLE = (UserError, RuntimeError, MemoryError)


@dataclass
class SampleFacts:
    """What reading a sample showed; what could not be read is ``None``.

    Attributes:
        image, mask: how findings call its two files.
        size: (height, width) of the image in pixels.
        mark: by which the image is recognised in other splits.
        counts: int64 (256,), pixels of each label.
        slopes, edges: pixels of the mask that lie between two other classes, and those that touch another class.
        refused: the mask, if its values are not all classes.
        remarks: (kind, text) of everything else.
    """

    image: str
    mask: str
    size: tuple[int, int] | None = None
    mark: Fingerprint | None = None
    counts: np.ndarray | None = None
    slopes: int = 0
    edges: int = 0
    refused: RefusedMask | None = None
    remarks: list[tuple[str, str]] = field(default_factory=list)


def read_samples(dataset: SegmentationDataset, progress: bool) -> list[SampleFacts]:
    """Every sample of ``dataset``, in order.

    Args:
        dataset: any split.
        progress: show a progress bar on the standard error stream.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        samples = pool.map(lambda index: _read(dataset, index), range(len(dataset)))
        return list(
            track(
                samples,
                description="reading images and masks",
                total=len(dataset),
                console=Console(stderr=True),
                transient=True,
                disable=not progress,
            )
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _read(dataset: SegmentationDataset, index: int) -> SampleFacts:
    if not isinstance(dataset, FileDataset):
        name = f"sample {dataset.ids[index]}"
        facts = SampleFacts(name, name)
        try:
            _look_at_both(dataset, dataset.open(index), facts)
        except _UNREADABLE as error:
            facts.remarks.append(("unreadable", f"{name}: {error}"))
        return facts
    image, mask = dataset.pairs[index]
    facts = SampleFacts(str(image), str(mask))
    odd = {path: _oddity(path) for path in (image, mask)}
    facts.remarks += [("unreadable", text) for text in odd.values() if text is not None]
    try:
        if not any(odd.values()):
            _look_at_both(dataset, dataset.open(index), facts)
    except _UNREADABLE as error:
        if not isinstance(dataset, TolerantFiles):
            facts.remarks.append(("unreadable", str(error)))
            return facts
        sound = len(facts.remarks)
        _look_at_image_alone(dataset, index, facts)
        _look_at_mask_alone(dataset, index, facts)
        if len(facts.remarks) == sound and facts.refused is None:  # each is well, so they do not fit
            facts.remarks.append(("other-size", str(error)))
    else:
        if isinstance(dataset, TolerantFiles) and any(odd.values()):
            if odd[image] is None:
                _look_at_image_alone(dataset, index, facts)
            if odd[mask] is None:
                _look_at_mask_alone(dataset, index, facts)
    if facts.size is not None:
        _look_at_image_header(image, facts)
    if facts.counts is not None:
        _look_at_mask_header(mask, dataset, facts)
    return facts


def _oddity(path: Path) -> str | None:
    """What ``path`` is, if no file; opening a pipe would wait for ever. A link to nowhere is told of by the reader."""
    if not path.exists() or path.is_file():
        return None
    return f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, expected an image file"


def _look_at_both(dataset: SegmentationDataset, sample: Sample, facts: SampleFacts) -> None:
    """Goes through a sample window by window; ``facts`` change only once all of it was read."""
    size = sample.size
    maker = FingerprintMaker(size)
    tally = _MaskTally(dataset)
    for window in _windows(size, maker.step(WINDOW)):
        image, labels = sample.window(window)
        maker.add(window, image)
        tally.add(labels)
    _note_image(size, maker, facts)
    tally.note(facts)


def _look_at_image_alone(dataset: TolerantFiles, index: int, facts: SampleFacts) -> None:
    try:
        image = dataset.image_alone(index)
    except _UNREADABLE as error:
        kind = "deep-image" if _header(dataset.pairs[index][0]).mode.startswith(("I", "F")) else "unreadable"
        facts.remarks.append((kind, str(error)))
        return
    size = (image.shape[-2], image.shape[-1])
    maker = FingerprintMaker(size)
    for window in _windows(size, maker.step(WINDOW)):
        maker.add(window, window.cut(image))
    _note_image(size, maker, facts)


def _look_at_mask_alone(dataset: TolerantFiles, index: int, facts: SampleFacts) -> None:
    path = dataset.pairs[index][1]
    try:
        labels = dataset.mask_alone(index)
    except _UNREADABLE as error:
        try:
            facts.refused = examine(path, str(error), dataset.reader)
        except _UNREADABLE:  # it cannot be decoded at all
            facts.remarks.append(("unreadable", str(error)))
        return
    tally = _MaskTally(dataset)
    tally.add(labels)
    tally.note(facts)


def _note_image(size: tuple[int, int], maker: FingerprintMaker, facts: SampleFacts) -> None:
    facts.size = size
    facts.mark = maker.finish()
    if facts.mark.blank:
        facts.remarks.append(("blank-image", facts.image))


class _MaskTally:
    """Counts of one mask, summed over its windows."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.classes = len(dataset.classes)
        self.ignore_index = dataset.ignore_index
        self.counts = np.zeros(LABELS, dtype=np.int64)
        self.outside: set[int] = set()
        self.slopes = self.edges = 0

    def add(self, labels: Tensor) -> None:
        known = (labels == self.ignore_index) | ((labels >= 0) & (labels < self.classes))
        if not known.all():
            self.outside |= set(torch.unique(labels[~known]).tolist())
            return
        pixels = labels.to(torch.uint8).numpy()
        self.counts += np.bincount(pixels.ravel(), minlength=LABELS)
        # Edges against ignored pixels say nothing: 255 lies far above every class.
        border = edges(pixels) & (pixels != self.ignore_index)
        self.edges += int(border.sum())
        self.slopes += int((slopes(pixels) & border).sum())

    def note(self, facts: SampleFacts) -> None:
        if self.outside:
            values = ", ".join(str(value) for value in sorted(self.outside)[:8])
            facts.remarks.append(("outside", f"{facts.mask} holds the label values {values}"))
            return
        facts.counts, facts.slopes, facts.edges = self.counts, self.slopes, self.edges
        if self.counts[self.ignore_index] == self.counts.sum():
            facts.remarks.append(("all-ignored", facts.mask))


def _windows(size: tuple[int, int], side: int) -> Iterator[Window]:
    height, width = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Window(top, left, min(side, height - top), min(side, width - left))


@dataclass(frozen=True)
class _Header:
    """What the head of an image file says; empty where PIL cannot read it."""

    mode: str = ""
    format: str = ""
    orientation: int = 1


def _header(path: Path) -> _Header:
    try:
        with Image.open(path) as image:
            return _Header(image.mode, image.format or "", int(image.getexif().get(_ORIENTATION, 1)))
    except Exception:  # whatever PIL raises: what is wrong with the file was told by its reader
        return _Header()


def _look_at_image_header(path: Path, facts: SampleFacts) -> None:
    header = _header(path)
    if header.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        facts.remarks.append(("other-colors", f"{path} is {header.mode}"))
    if header.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        facts.remarks.append(("alpha", f"{path} is {header.mode}"))
    if header.orientation != 1:
        facts.remarks.append(("turned", f"{path} has the EXIF orientation {header.orientation}"))


def _look_at_mask_header(path: Path, dataset: FileDataset, facts: SampleFacts) -> None:
    header = _header(path)
    # A WebP file says in its first chunk whether it is the lossy kind.
    if header.format in ("JPEG", "MPO") or (header.format == "WEBP" and path.read_bytes()[12:16] == b"VP8 "):
        facts.remarks.append(("lossy-mask", str(path)))
    if header.mode == "P" and isinstance(dataset, TolerantFiles) and dataset.reader.palette is not None:
        _compare_palettes(path, dataset.reader, facts)


def _compare_palettes(path: Path, reader: MaskReader, facts: SampleFacts) -> None:
    """A picture of at most 256 colours holds numbers and its own colours; both should say the same classes."""
    embedded = decoded(path).getpalette("RGB") or []
    classes = reader.palette or ()
    assert facts.counts is not None
    for label in np.flatnonzero(facts.counts[: reader.classes]).tolist():
        color = tuple(embedded[3 * label : 3 * label + 3])
        if color in classes and classes.index(color) != label:
            text = f"{path} shows index {label} in the colour of class {classes.index(color)}"
            facts.remarks.append(("palette-order", text))
            return
