"""Reading every sample of a split once, whatever is wrong with some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segdistill.colors import Color
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Sample, Window
from segdistill.datasets.reading.checking import LabelTally, SampleContent, in_threads
from segdistill.datasets.reading.files import FileDataset, Pair
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.pictures import decoded
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.errors import UserError
from segdistill.inspection.duplicates import Fingerprint, FingerprintMaker
from segdistill.inspection.headers import (
    Bands,
    PixelKind,
    fault_of_image,
    image_remarks,
    mask_remarks,
    picture_header,
    pixel_kind,
    place_remarks,
)
from segdistill.inspection.mask_values import RefusedMask, examine
from segdistill.inspection.tolerant import TolerantFiles

WINDOW = 2048
"""Longest side of what is looked at at once, in pixels: an aerial image is a hundred times as large."""

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
        kind: what its pixels are.
        largest: value in any band of the image.
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
    kind: PixelKind | None = None
    largest: float | None = None
    refused: RefusedMask | None = None
    remarks: list[tuple[str, str]] = field(default_factory=list)


def read_samples(dataset: SegmentationDataset, progress: bool) -> list[SampleFacts]:
    """Every sample of ``dataset``, in order.

    Args:
        dataset: any split.
        progress: show a progress bar on the standard error stream.
    """
    return list(in_threads(lambda index: _read(dataset, index), len(dataset), "reading images and masks", progress))


def bands_of(dataset: SegmentationDataset) -> Bands:
    """The numbers of the bands that a data set reads; None: red, green and blue."""
    return dataset.bands if isinstance(dataset, TileDataset) else None


def facts_of(
    name: str, pair: Pair | None, content: SampleContent, reader: MaskReader | None, bands: Bands = None
) -> SampleFacts:
    """The same of a sample that was read already; only the heads of its files are looked at here.

    Args:
        name: of the sample.
        pair: its files, if it has any.
        content: what they hold.
        reader: of the masks; None: they are not looked at in more detail.
        bands: numbers of the bands that are read; None: red, green and blue.
    """
    facts = SampleFacts(f"sample {name}", f"sample {name}") if pair is None else SampleFacts(str(pair[0]), str(pair[1]))
    _note_image(content.size, content.blank, facts)
    facts.largest = content.largest
    _note_labels(content.labels, facts)
    if pair is not None:
        _look_at_headers(pair, facts, reader=reader, bands=bands)
    return facts


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
    reader = dataset.reader if isinstance(dataset, TolerantFiles) else None
    _look_at_headers((image, mask), facts, reader=reader, bands=bands_of(dataset))
    return facts


def _oddity(path: Path) -> str | None:
    """What ``path`` is, if no file; opening a pipe would wait for ever. A broken link is reported by the reader."""
    if not path.exists() or path.is_file():
        return None
    return f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, expected an image file"


def _look_at_both(dataset: SegmentationDataset, sample: Sample, facts: SampleFacts) -> None:
    """Goes through a sample window by window; ``facts`` change only once all of it was read."""
    size = sample.size
    maker = FingerprintMaker(size)
    tally = LabelTally(dataset)
    largest = 0.0
    for window in _windows(size, maker.step(WINDOW)):
        image, labels = sample.window(window)
        maker.add(window, image)
        largest = max(largest, float(image.amax()))
        tally.add(labels)
    _note_fingerprint(size, maker, facts)
    _note_labels(tally, facts)
    facts.largest = largest


def _look_at_image_alone(dataset: TolerantFiles, index: int, facts: SampleFacts) -> None:
    try:
        image = dataset.image_alone(index)
    except _UNREADABLE as error:
        facts.remarks.append((fault_of_image(dataset.pairs[index][0]), str(error)))
        return
    size = (image.shape[-2], image.shape[-1])
    maker = FingerprintMaker(size)
    for window in _windows(size, maker.step(WINDOW)):
        maker.add(window, window.cut(image))
    _note_fingerprint(size, maker, facts)


def _look_at_mask_alone(dataset: TolerantFiles, index: int, facts: SampleFacts) -> None:
    path = dataset.pairs[index][1]
    try:
        labels = dataset.mask_alone(index)
    except _UNREADABLE as error:
        try:
            facts.refused = examine(path, str(error), dataset.reader)
        except _UNREADABLE:  # it cannot be decoded at all
            facts.remarks.append(("unreadable", str(error)))
        else:
            if dataset.reader.palette is not None and picture_header(path).mode == "P":
                _compare_palettes(path, dataset.reader.palette, facts.refused.values, facts)
        return
    tally = LabelTally(dataset)
    tally.add(labels)
    _note_labels(tally, facts)


def _note_fingerprint(size: tuple[int, int], maker: FingerprintMaker, facts: SampleFacts) -> None:
    facts.mark = maker.finish()
    _note_image(size, facts.mark.blank, facts)


def _note_image(size: tuple[int, int], blank: bool, facts: SampleFacts) -> None:
    facts.size = size
    if blank:
        facts.remarks.append(("blank-image", facts.image))


def _note_labels(tally: LabelTally, facts: SampleFacts) -> None:
    if tally.fault is not None:
        facts.remarks.append(("outside", f"{facts.mask} {tally.fault}"))
        return
    facts.counts, facts.slopes, facts.edges = tally.counts, tally.slopes, tally.edges
    if tally.counts[tally.ignore_index] == tally.counts.sum():
        facts.remarks.append(("all-ignored", facts.mask))


def _windows(size: tuple[int, int], side: int) -> Iterator[Window]:
    height, width = size
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Window(top, left, min(side, height - top), min(side, width - left))


def _look_at_headers(pair: Pair, facts: SampleFacts, *, reader: MaskReader | None, bands: Bands) -> None:
    """What the heads of two files say, each only where the file could be read."""
    image, mask = pair
    if facts.size is not None:
        facts.remarks += image_remarks(image, bands, facts.size)
        facts.kind = pixel_kind(image, bands)
    if facts.counts is not None:
        facts.remarks += mask_remarks(mask, reader)
        facts.remarks += [] if facts.size is None else place_remarks(image, mask, facts.size)
        palette = None if reader is None else reader.palette
        if palette is not None and picture_header(mask).mode == "P":
            _compare_palettes(mask, palette, np.flatnonzero(facts.counts[: len(palette)]).tolist(), facts)


def _compare_palettes(path: Path, palette: Sequence[Color], values: Iterable[int], facts: SampleFacts) -> None:
    """A picture of at most 256 colours holds numbers and its own colours; both should say the same classes.

    Args:
        path: a mask of PIL's mode P.
        palette: the colours of the classes.
        values: numbers that it holds.
        facts: where it is told.
    """
    embedded = decoded(path).getpalette("RGB") or []
    for value in sorted(values):
        color = tuple(embedded[3 * value : 3 * value + 3])
        if color in palette and palette.index(color) != value:
            text = f"{path} shows index {value} in the colour of class {palette.index(color)}"
            facts.remarks.append(("palette-order", text))
            facts.refused = None  # because of this
            return
