"""Decoded images and labels of another data set, kept in memory or on disk, so that each is decoded only once."""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from segdistill.datasets.base import LoadedSample, Sample, SegmentationDataset, Window
from segdistill.datasets.reading.files import FileDataset
from segdistill.datasets.reading.images import image_size
from segdistill.datasets.reading.masks import resized_labels
from segdistill.datasets.reading.strips import scored_sample
from segdistill.datasets.reading.tiles import READING, TileDataset
from segdistill.errors import UserError
from segdistill.files import bytes_of
from segdistill.progress import tracked
from segdistill.records import RecordFile, RecordStore, free_bytes, readable

#: Changes when files written before can no longer be read.
FORMAT = 3

#: Samples between two marks of what is done; a kill costs at most as many.
_CHUNK = 64

#: Records begin at multiples of this, so that float32 values are aligned.
_ALIGNMENT = 8

_DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.uint8: np.dtype(np.uint8), torch.float32: np.dtype(np.float32)}

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]

T = TypeVar("T")


class DecodedCache(SegmentationDataset):
    """Another data set, whose images and labels are decoded once and then kept as they are, before augmentation.

    Samples are equal to those of ``dataset`` bit for bit. Everything is read here, at once, unless it lies on disk
    already. In memory the samples are shared by data-loading processes; each process of a run on several
    devices has its own. On disk they lie in one file that is memory-mapped: the system keeps in memory what fits.

    Of a validation split that resizes, what its scores are taken of is kept: the resized image, and the labels at the
    size of their file, since scores are those of each image at its own size.

    The files are a `RecordStore` of one `RecordFile`: ``file.json``, ``file.bin`` and ``file.done``. One whose filling
    was killed is completed by the next run, and several processes can fill one together.

    Args:
        dataset: its samples must be small enough to be read whole.
        file: path without suffix of the files on disk; None: in memory.
        made_for: what the samples depend on besides the files of the data set, plain values by name.
        console: for a line with the size, before anything is read or written.
        progress: show a bar.
        rank, world: number of this process among several that fill one file: each begins elsewhere.
        for_scores: keep the labels at the size of their files, whatever ``resize``.

    Raises:
        UserError: a sample that cannot be read; too little memory or disk; files made for other data.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        file: Path | None,
        made_for: Mapping[str, Any],
        *,
        console: Console,
        progress: bool = False,
        rank: int = 0,
        world: int = 1,
        for_scores: bool = False,
    ) -> None:
        super().__init__(
            classes=dataset.classes, ids=dataset.ids, palette=dataset.palette, in_channels=dataset.in_channels
        )
        self.dataset = dataset
        self.arguments = dataset.arguments  # its own hold a console, which no other process can be given
        self.take_attributes(dataset)
        self._own_labels = for_scores and dataset.resize is not None
        self._layout = _Layout.of(dataset, dataset.at_own_size() if self._own_labels else dataset)
        if file is None:
            self._store: _Memory | _File = _Memory(self._layout, console)
        else:
            whole = {
                "format": FORMAT,
                "the version of the rules by which files are read": READING,
                **made_for,
                "images": len(dataset),
                "the hash of its files": _files_hash(dataset),
            }
            self._store = _File(file, whole, self._layout, console)
        self._store.fill(self._record, progress=progress, rank=rank, world=world)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.open(index).whole()

    def open(self, index: int) -> Sample:
        """One sample, of which any part is copied out of what is kept."""
        kept = self._kept(index)
        if not self._own_labels:
            return kept
        image, labels = kept.whole()
        return LoadedSample(image, resized_labels(labels, self.resize))

    def scored(self, index: int) -> tuple[Tensor, Tensor] | None:
        """See `SegmentationDataset.scored`."""
        if not self._own_labels:
            return None
        image, labels = self._kept(index).whole()
        return image, labels.to(torch.uint8)

    def labels(self, index: int) -> Tensor:
        """See `SegmentationDataset.labels`; read from the file, since it may be larger than what is kept."""
        return self.dataset.labels(index)

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        return self.dataset.files(index)

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return self.dataset.pixel_type()

    def at_size(self, resize: tuple[int, int] | None) -> SegmentationDataset:
        """See `SegmentationDataset.at_size`; what is kept at another size is decoded anew."""
        return self if resize == self.resize else self.dataset.at_size(resize)

    def _kept(self, index: int) -> _KeptSample:
        number = range(len(self))[index]
        return _KeptSample(self._layout, number, self._store.read(number))

    def _record(self, index: int) -> _Bytes:
        """A sample as it is kept: the bytes of the image, and then one for every label."""
        if self._own_labels and self.resize is not None:
            image, labels = scored_sample(self.dataset.at_own_size(), index, self.resize)
        else:
            image, labels = self.dataset.open(index).whole()
        height, width = self._layout.sizes[index]
        if image.shape != (self._layout.channels, height, width) or image.dtype != self._layout.dtype:
            raise UserError(
                f"sample {self.ids[index]} is {tuple(image.shape)} of {image.dtype}, expected "
                f"{(self._layout.channels, height, width)} of {self._layout.dtype} as its file's header or the first "
                "sample says"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
            raise UserError(
                f"sample {self.ids[index]} holds labels from {int(labels.min())} to {int(labels.max())}, outside the "
                f"classes 0 to {len(self.classes) - 1} and the ignore label {self.ignore_index}"
            )
        pixels = image.contiguous().view(torch.uint8).flatten()
        return np.asarray(torch.cat([pixels, labels.to(torch.uint8).flatten()]).numpy())


@dataclass(frozen=True)
class _Layout:
    """Where each sample lies among all bytes.

    Attributes:
        channels, dtype: of every image.
        sizes: (height, width) of each image.
        label_sizes: (height, width) of the labels of each.
        starts: first byte of each sample, and the end of all.
    """

    channels: int
    dtype: torch.dtype
    sizes: tuple[tuple[int, int], ...]
    label_sizes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]

    @staticmethod
    def of(dataset: SegmentationDataset, labelled: SegmentationDataset) -> _Layout:
        """The layout of the images of one data set and the labels of another, which may be of another size."""
        first, _ = dataset.open(0).window(Window(0, 0, 1, 1))
        if first.dtype not in _DTYPES:
            raise UserError(f"images of {first.dtype} cannot be kept; expected uint8 or float32")
        with ThreadPoolExecutor(_threads()) as pool:
            sizes, label_sizes = (
                tuple(pool.map(functools.partial(_size, one), range(len(one)))) for one in (dataset, labelled)
            )
        starts = [0]
        for image, labels in zip(sizes, label_sizes, strict=True):
            length = math.prod(image) * first.shape[0] * first.element_size() + math.prod(labels)
            starts.append(starts[-1] + -(-length // _ALIGNMENT) * _ALIGNMENT)
        return _Layout(first.shape[0], first.dtype, sizes, label_sizes, tuple(starts))

    @property
    def total(self) -> int:
        """Bytes of all samples."""
        return self.starts[-1]


class _KeptSample(Sample):
    """A sample among the bytes that are kept."""

    def __init__(self, layout: _Layout, index: int, record: _Bytes) -> None:
        height, width = layout.sizes[index]
        pixels = layout.channels * height * width * layout.dtype.itemsize
        self._image = record[:pixels].view(_DTYPES[layout.dtype]).reshape(layout.channels, height, width)
        size = layout.label_sizes[index]
        self._labels = record[pixels : pixels + math.prod(size)].reshape(size)

    @property
    def size(self) -> tuple[int, int]:
        return self._image.shape[1], self._image.shape[2]

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        """Copies, so that nobody changes what is kept."""
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        image = self._image[:, rows, columns].copy()
        return torch.from_numpy(image), torch.from_numpy(self._labels[rows, columns].astype(np.int64))

    def whole(self) -> tuple[Tensor, Tensor]:
        """Copies of image and labels, which may be of another size."""
        return torch.from_numpy(self._image.copy()), torch.from_numpy(self._labels.astype(np.int64))


class _Memory:
    """All samples in memory that data-loading processes share."""

    def __init__(self, layout: _Layout, console: Console) -> None:
        self.layout = layout
        gigabytes = f"{layout.total / 1e9:.2f} GB"
        console.out(f"keeping {len(layout.sizes)} decoded images in memory: {gigabytes}", highlight=False)
        room = _shared_memory()
        if room is not None and layout.total > room:
            raise UserError(
                f"decoded_cache: ram needs {gigabytes} and there are {room / 1e9:.2f} GB of memory for it here; name a "
                "folder in decoded_cache instead"
            )
        # Page by page as it is written to, and not bound to the size of /dev/shm, which is 64 MB in many containers.
        self.bytes = (
            torch.frombuffer(mmap.mmap(-1, max(1, layout.total)), dtype=torch.uint8)
            if _processes_are_forked()
            else torch.empty(layout.total, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        )

    def fill(self, record: Callable[[int], _Bytes], *, progress: bool, rank: int, world: int) -> None:
        """Reads everything; ``rank`` and ``world`` mean nothing here."""
        target = self.bytes.numpy()

        def one(index: int) -> None:
            values = record(index)
            target[self.layout.starts[index] : self.layout.starts[index] + len(values)] = values

        with ThreadPoolExecutor(_threads()) as pool:
            _exhaust(pool, _shown(pool.map(one, range(len(self.layout.sizes))), len(self.layout.sizes), progress))

    def read(self, index: int) -> _Bytes:
        """The bytes of one sample."""
        return self.bytes[self.layout.starts[index] : self.layout.starts[index + 1]].numpy()


class _File:
    """All samples in a memory-mapped file."""

    def __init__(self, file: Path, made_for: Mapping[str, Any], layout: _Layout, console: Console) -> None:
        remedy = "name another folder in decoded_cache, or remove it"
        self.records = RecordFile(file, layout.starts, remedy)
        store = RecordStore(file.with_name(f"{file.name}.json"), made_for, f"decoded_cache {self.records.data}", remedy)
        with store.locked(wait=True):  # other processes of the run come here too
            there = store.check() is not None and self.records.damage() is None
            missing = int((~self.records.done()).sum()) if there else len(self.records)
            if missing:
                console.out(
                    f"keeping {missing} decoded images in {self.records.data}: {readable(layout.total)} in all "
                    f"({readable(free_bytes(file.parent))} free)",
                    highlight=False,
                )
            if not there:
                self.records.remove()  # damaged, or of an unknown data set
                store.check_space([self.records], "choose another folder")
                store.write()
                store.allocate([self.records], "choose another folder")

    def fill(self, record: Callable[[int], _Bytes], *, progress: bool, rank: int, world: int) -> None:
        """Reads what is missing, the ``rank``-th of ``world`` parts of it first."""
        missing = np.flatnonzero(~self.records.done()).tolist()
        if not missing:
            return
        first = rank * len(missing) // world
        missing = missing[first:] + missing[:first]
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        with self.records.writing() as writer, ThreadPoolExecutor(_threads()) as pool:
            for chunk in _shown(chunks, len(chunks), progress):
                done = self.records.done()  # by others, in the meantime
                left = [index for index in chunk if not done[index]]
                _exhaust(pool, pool.map(lambda index: writer.put(index, record(index)), left))
                writer.mark(left)

    def read(self, index: int) -> _Bytes:
        """The bytes of one sample."""
        return self.records.read(index)


def _size(dataset: SegmentationDataset, index: int) -> tuple[int, int]:
    """(height, width) of a sample, from its file's header where that says it."""
    if dataset.resize is not None:
        return dataset.resize
    if isinstance(dataset, FileDataset) and not isinstance(dataset, TileDataset):
        return image_size(dataset.pairs[index][0])
    return dataset.open(index).size


def _files_hash(dataset: SegmentationDataset) -> str:
    """Of names, sizes and times of all files, wherever they lie; of the samples' names where there are no files."""
    told = hashlib.blake2b(digest_size=16)
    for index, name in enumerate(dataset.ids):
        told.update(bytes_of(f"{name}\n"))
        for file in dataset.files(index):
            try:
                state = file.stat()
            except OSError:  # reading says so where the file is needed
                told.update(bytes_of(f"{file.name} is not there\n"))
                continue
            told.update(bytes_of(f"{file.name} {state.st_size} {state.st_mtime_ns}\n"))
    return told.hexdigest()


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _exhaust(pool: ThreadPoolExecutor, results: Iterable[None]) -> None:
    """Waits for all; after the first error nothing more is begun."""
    try:
        for _ in results:
            pass
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def _shown(items: Iterable[T], total: int, progress: bool) -> Iterable[T]:
    return tracked(items, "decoding images", total, Console(stderr=True), progress)


def _processes_are_forked() -> bool:
    """Whether data-loading processes begin as copies of this one, memory and all."""
    method = multiprocessing.get_start_method(allow_none=True)
    return (method or multiprocessing.get_all_start_methods()[0]) == "fork"


def _shared_memory() -> int | None:
    """Bytes of memory that processes here could share at most; None where that cannot be told."""
    if sys.platform == "linux" and not _processes_are_forked() and Path("/dev/shm").is_dir():
        return shutil.disk_usage("/dev/shm").free
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
