"""Batches, (images uint8 (B, C, H, W), labels (B, H, W)), in an order fixed by (seed, epoch)."""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from segdistill.data.augmentation import Augmentation, padding_color
from segdistill.data.seeding import keyed_generator
from segdistill.data.tiling import EvaluationTiles
from segdistill.datasets.base import SegmentationDataset

Batch = tuple[Tensor, Tensor]

#: All loaders with processes of their own, while they live.
_loaders: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()

Attach = Callable[[int, int], dict[str, Tensor]]


class TrainingSamples(Dataset[tuple[Any, ...]]):
    """Augmented views of a data set, indexed by (epoch, index).

    The epoch travels with the index, so that long-lived worker processes need not be told of it. An index beyond
    the end counts on from the start: ``index % len(dataset)``, a further view of that sample; so do the further crops
    of a data set that has several of each image. Of large images only what a view shows is read.

    Args:
        dataset: the train split.
        augmentation: how samples are changed.
        seed: of the changes.
        views: how many different views there are of each sample, shown in turn, one an epoch, so that what a teacher
            says of them can be kept; None for a new one in every epoch.
        attach: gives what else goes with a sample, by (view, index): what a teacher once said of it.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augmentation: Augmentation,
        seed: int,
        views: int | None = None,
        attach: Attach | None = None,
    ) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.views = views
        self.attach = attach

    def __len__(self) -> int:
        return len(self.dataset) * self.dataset.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, index = key
        view = self.view(epoch)
        source = self.dataset.open(index % len(self.dataset))
        shown = self.augmentation.view(source.size, key=(self.seed, view, index))
        sample = shown.apply(*source.window(shown.window), self.dataset.fill)
        return sample if self.attach is None else (*sample, self.attach(view, index))

    def view(self, epoch: int) -> int:
        """The number of the view that an epoch shows."""
        return epoch if self.views is None else epoch % self.views


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) of every sample in an order that is a function of (seed, epoch), in full batches only.

    The samples over that fill no batch are left out of the epoch, others each time. A data set smaller than
    one batch is gone through again and again until the batch is full, each time in other views.

    Of every batch each process takes its equal part, so that the batches, and with them the run, are the same
    however many processes share the work; ``batch_size`` is their sum.

    Args:
        length: number of samples in the data set.
        seed: of the order.
        batch_size: samples of one optimiser step, over all processes.
        parts: into how many equal parts each batch falls: processes x gradient accumulation steps.
        rank: number of this process, from 0; it takes the parts rank, rank + world and so on.
        world: number of processes.

    Example:
        >>> sampler = EpochSampler(length=5, seed=0, batch_size=2)
        >>> len(sampler)
        4
        >>> sampler.set_epoch(7)
        >>> {epoch for epoch, _ in sampler}
        {7}
    """

    def __init__(self, length: int, seed: int, batch_size: int, parts: int = 1, rank: int = 0, world: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.parts = parts
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.skipped = 0

    @property
    def batches(self) -> int:
        """Optimiser steps of an epoch."""
        return max(self.length // self.batch_size, 1)

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Called before each epoch; without it every epoch is the same.

        Args:
            epoch: from 0.
            skipped: batches at the epoch's beginning that a stopped run has been through already.
        """
        self.epoch = epoch
        self.skipped = skipped

    def __len__(self) -> int:
        return (self.batches - self.skipped) * self.batch_size // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        count = max(self.length, self.batch_size)
        order = torch.randperm(count, generator=keyed_generator(self.seed, self.epoch))
        part = self.batch_size // self.parts
        for batch in range(self.skipped, self.batches):
            for number in range(self.rank, self.parts, self.world):
                start = batch * self.batch_size + number * part
                for index in order[start : start + part].tolist():
                    yield self.epoch, index


def training_loader(
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    workers: int | None = None,
    *,
    views: int | None = None,
    attach: Attach | None = None,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[tuple[Any, ...]]:
    """Full batches of augmented views; the same for every number of workers.

    Labels are uint8 where classes and ignore label fit into it, so that one byte a pixel crosses from the processes
    that read ahead and on to the device; else int64.

    Args:
        dataset: the train split.
        augmentation: must bring all images to one size.
        batch_size: samples per optimiser step, over all processes; the loader gives ``batch_size / parts`` at a time.
        seed: of order and augmentation; call ``loader.sampler.set_epoch(epoch)`` before each epoch.
        workers: processes that read ahead; :func:`default_workers` if not given.
        views, attach: see `TrainingSamples`.
        parts, rank, world: see `EpochSampler`.
    """
    samples = TrainingSamples(dataset, augmentation, seed, views, attach)
    return _loader(
        samples,
        batch_size // parts,
        workers,
        sampler=EpochSampler(len(samples), seed, batch_size, parts, rank, world),
        collate_fn=training_batch if 0 <= dataset.ignore_index <= 255 and len(dataset.classes) <= 256 else None,
    )


def training_batch(samples: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Stacks samples, their labels as uint8."""
    images, labels, *rest = default_collate(list(samples))
    return [images, labels.to(torch.uint8), *rest]


def evaluation_loader(
    dataset: SegmentationDataset, batch_size: int, workers: int | None = None, *, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Any, ...]]:
    """Every sample once, in order, as it is; of several processes each sees its own part of them.

    Images larger than the data set's ``evaluation_window`` come in overlapping windows, and each pixel has its label in
    one of them only, so that it counts once.

    Images of different size in one batch are padded on the right and at the bottom, with mean grey; their
    labels there are the ignore label, so that no added pixel counts.
    """
    collate = partial(padded_batch, ignore_index=dataset.ignore_index, fill=dataset.fill)
    longest = dataset.evaluation_window
    samples = dataset if longest is None else EvaluationTiles(dataset, longest)
    part = samples if world == 1 else Subset(samples, range(rank, len(samples), world))
    return _loader(part, batch_size, workers, collate_fn=collate)


def padded_batch(samples: Sequence[Batch], ignore_index: int, fill: Sequence[float] | None = None) -> Batch:
    """Stack samples, each padded on the right and at the bottom to the largest height and width.

    Args:
        samples: images (C, H, W) and labels (H, W).
        ignore_index: the label of padding.
        fill: what padding shows in the images; by default :func:`padding_color`.
    """
    height = max(mask.shape[0] for _, mask in samples)
    width = max(mask.shape[1] for _, mask in samples)
    first = samples[0][0]
    grey = torch.tensor(padding_color(first.shape[0], first.dtype) if fill is None else fill).to(first.dtype)
    images = grey[None, :, None, None].repeat(len(samples), 1, height, width)
    labels = torch.full((len(samples), height, width), ignore_index, dtype=torch.int64)
    for number, (image, mask) in enumerate(samples):
        images[number, :, : image.shape[1], : image.shape[2]] = image
        labels[number, : mask.shape[0], : mask.shape[1]] = mask
    return images, labels


@contextmanager
def reading(*loaders: DataLoader[tuple[Any, ...]]) -> Iterator[None]:
    """Ends the processes that read ahead, however the ``with`` statement ends; loaders used again start others.

    Left to Python's garbage collector, their queues may be gone before they are told, and each takes ten seconds to
    end.
    """
    try:
        yield
    finally:
        for loader in loaders:
            iterator, loader._iterator = loader._iterator, None
            if iterator is not None:
                iterator._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public way


def default_workers() -> int:
    """Processes that read ahead if the user names no number.

    On a GPU, one per core but one, at most 8. On the CPU training itself wants the cores, and reading is a
    small
    part of a step: a worker only where there are more than 2 cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1)) if torch.cuda.is_available() else min(2, (cores - 1) // 2)


def _loader(
    dataset: Dataset[Any],
    batch_size: int,
    workers: int | None,
    sampler: EpochSampler | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
) -> DataLoader[tuple[Any, ...]]:
    workers = default_workers() if workers is None else workers
    if workers:
        atexit.unregister(_end_data_loading)  # once is enough
        atexit.register(_end_data_loading)
    loader: DataLoader[tuple[Any, ...]] = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate_fn,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # The loader draws its workers' seeds from this generator, and so leaves the global one alone.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_run if workers else None,
    )
    if workers:
        _loaders.add(loader)
    return loader


def _leave_signals_to_the_run(_: int) -> None:
    """A scheduler's SIGTERM and a terminal's Ctrl-C reach every process; a run still needs its data to end well."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_data_loading() -> None:
    """When Python ends: multiprocessing would send SIGTERM, which these processes ignore, and wait for ever.

    Only the processes of our own loaders are ended, not those of the program that we run in.
    """
    ours = [worker for loader in _loaders for worker in getattr(loader._iterator, "_workers", []) if worker.is_alive()]
    if ours and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes the end of a worker for a fault
    for worker in ours:
        worker.kill()
