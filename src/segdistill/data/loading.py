"""Batches, (images uint8 (B, C, H, W), labels (B, H, W)), in an order fixed by (seed, epoch)."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from segdistill.data.augmentation import Augmentation
from segdistill.data.seeding import keyed_generator
from segdistill.datasets.base import SegmentationDataset
from segdistill.datasets.reading.joined import Joined
from segdistill.networks.closer import reduced

Batch = tuple[Tensor, Tensor]
Loader = TypeVar("Loader", bound=DataLoader[Any])

#: All loaders with processes of their own, while they live.
_loaders: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()

#: Tells the order of unlabelled samples from that of labelled ones.
_UNLABELLED = 1

Attach = Callable[[int, int], dict[str, Tensor]]


class TrainingSamples(Dataset[tuple[Any, ...]]):
    """Augmented views of a data set, indexed by (epoch, index).

    The epoch travels with the index, so that long-lived worker processes need no message about it. An index beyond
    the end counts on from the start: ``index % len(dataset)``, a further view of that sample; so do the further crops
    of a data set that has several of each image. Of large images only what a view shows is read. A sample that is mixed
    takes the partner's own, unmixed view of the same number, so that a mixed view is a function of (seed, view, index)
    as well.

    Args:
        dataset: the train split.
        augmentation: how samples are changed.
        seed: of the changes.
        views: how many different views there are of each sample, shown in turn, one an epoch, so that what a teacher
            says of them can be kept; None for a new one in every epoch.
        attach: gives what else goes with a sample, by (view, index): what a teacher once said of it.
        teacher_scale: images are shown at so many times the size of their labels, for a teacher that looks closer. The
            data set, where it resizes, then reads at that multiple of the student's size. With ``attach`` the teacher
            has seen them, and they are `reduced` to the student's size, pixel by pixel as a `Distiller` does it.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augmentation: Augmentation,
        seed: int,
        views: int | None = None,
        attach: Attach | None = None,
        teacher_scale: int = 1,
    ) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self.views = views
        self.attach = attach
        self.teacher_scale = teacher_scale

    def __len__(self) -> int:
        return len(self.dataset) * self.dataset.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, index = key
        view = self.view(epoch)
        sample = self._unmixed(view, index)
        mixing = self.augmentation.mixing(key=(self.seed, view, index))
        if mixing is not None:
            sample = mixing(sample, self._unmixed(view, mixing.partner_of(index, len(self))))
        if self.attach is None:
            return sample
        return reduced(sample[0], self.teacher_scale), sample[1], self.attach(view, index)

    def _unmixed(self, view: int, index: int) -> tuple[Tensor, Tensor]:
        source = self.dataset.open(index % len(self.dataset))
        read = self.teacher_scale if self.dataset.resize is not None else 1
        height, width = source.size
        shown = self.augmentation.view((height // read, width // read), key=(self.seed, view, index))
        if self.teacher_scale > 1:
            shown = shown.closer(self.teacher_scale, read_larger=read > 1)
        return shown.apply(*source.window(shown.window), self.dataset.fill)

    def view(self, epoch: int) -> int:
        """The number of the view that an epoch shows."""
        return epoch if self.views is None else epoch % self.views


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) of every sample in an order that is a function of (seed, epoch), in full batches only.

    The samples over that fill no batch are left out of the epoch, others each time. A data set smaller than
    one batch is gone through again and again until the batch is full, each time in other views.

    Of every batch each process takes its equal part, so that the batches, and with them the run, are the same
    however many processes share the work; ``batch_size`` is their sum.

    Unlabelled samples lie behind the ``length`` labelled ones. An epoch is one pass over the labelled samples. The
    unlabelled ones go through all epochs in one endless row of shuffled passes, of which every epoch takes the next
    part; with an index goes the number of its pass, so that each pass shows another view of them. The two kinds are
    spread evenly over a batch, so that its parts have as many of each as can be.

    Args:
        length: number of samples in the data set; where there are unlabelled ones, of the labelled ones.
        seed: of the order.
        batch_size: samples of one optimiser step, over all processes.
        parts: into how many equal parts each batch falls: processes x gradient accumulation steps.
        rank: number of this process, from 0; it takes the parts rank, rank + world and so on.
        world: number of processes.
        unlabelled: number of unlabelled samples.
        unlabelled_in_batch: how many of each batch are unlabelled.

    Example:
        >>> sampler = EpochSampler(length=5, seed=0, batch_size=2)
        >>> len(sampler)
        4
        >>> sampler.set_epoch(7)
        >>> {epoch for epoch, _ in sampler}
        {7}
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
        unlabelled: int = 0,
        unlabelled_in_batch: int = 0,
    ) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.parts = parts
        self.rank = rank
        self.world = world
        self.unlabelled = unlabelled
        self.unlabelled_in_batch = unlabelled_in_batch
        self.epoch = 0
        self.skipped = 0

    @property
    def batches(self) -> int:
        """Optimiser steps of an epoch."""
        return max(self.length // self.labelled_in_batch, 1)

    @property
    def labelled_in_batch(self) -> int:
        """How many samples of each batch are labelled."""
        return self.batch_size - self.unlabelled_in_batch

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
        count = max(self.length, self.labelled_in_batch)
        order = torch.randperm(count, generator=keyed_generator(self.seed, self.epoch))
        labelled = ((self.epoch, index) for index in order[self.skipped * self.labelled_in_batch :].tolist())
        unlabelled = self._unlabelled((self.epoch * self.batches + self.skipped) * self.unlabelled_in_batch)
        part = self.batch_size // self.parts
        for _ in range(self.skipped, self.batches):
            batch = [next(unlabelled if self._is_unlabelled(place) else labelled) for place in range(self.batch_size)]
            for number in range(self.rank, self.parts, self.world):
                yield from batch[number * part : (number + 1) * part]

    def _is_unlabelled(self, place: int) -> bool:
        """Whether a place in a batch is one of an unlabelled sample."""
        share = self.unlabelled_in_batch
        return (place + 1) * share // self.batch_size > place * share // self.batch_size

    def _unlabelled(self, first: int) -> Iterator[tuple[int, int]]:
        """(pass, index) of the unlabelled samples, from the ``first``-th one of the run on."""
        if not self.unlabelled_in_batch:
            return
        for number in itertools.count(first // self.unlabelled):
            order = torch.randperm(self.unlabelled, generator=keyed_generator(self.seed, number, _UNLABELLED))
            for index in order[first % self.unlabelled :].tolist():
                yield number, self.length + index
            first = 0


def training_loader(
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    workers: int | None = None,
    *,
    views: int | None = None,
    attach: Attach | None = None,
    teacher_scale: int = 1,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
    unlabelled_in_batch: int = 0,
) -> DataLoader[tuple[Any, ...]]:
    """Full batches of augmented views; the same for every number of workers.

    Labels are uint8 where classes and ignore label fit into it, so that one byte a pixel crosses from the processes
    that read ahead and on to the device; else int64.

    Args:
        dataset: the train split; or a `Joined` one, where batches hold unlabelled images too.
        augmentation: must bring all images to one size.
        batch_size: samples per optimiser step, over all processes; the loader gives ``batch_size / parts`` at a time.
        seed: of order and augmentation; call ``loader.sampler.set_epoch(epoch)`` before each epoch.
        workers: processes that read ahead; :func:`default_workers` if not given.
        views, attach, teacher_scale: see `TrainingSamples`.
        parts, rank, world, unlabelled_in_batch: see `EpochSampler`.
    """
    samples = TrainingSamples(dataset, augmentation, seed, views, attach, teacher_scale)
    labelled = dataset.first_unlabelled if isinstance(dataset, Joined) else len(samples)
    loader: DataLoader[tuple[Any, ...]] = DataLoader(
        samples,
        batch_size // parts,
        sampler=EpochSampler(
            labelled, seed, batch_size, parts, rank, world, len(samples) - labelled, unlabelled_in_batch
        ),
        collate_fn=training_batch if 0 <= dataset.ignore_index <= 255 and len(dataset.classes) <= 256 else None,
        **loader_options(workers),
    )
    return end_with_python(loader)


def training_batch(samples: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Stacks samples, their labels as uint8."""
    images, labels, *rest = default_collate(list(samples))
    return [images, labels.to(torch.uint8), *rest]


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


def end_with_python(loader: Loader) -> Loader:
    """The loader, whose processes are ended when Python ends."""
    if loader.num_workers:
        atexit.unregister(_end_data_loading)  # once is enough
        atexit.register(_end_data_loading)
        _loaders.add(loader)
    return loader


def loader_options(workers: int | None, ahead: int = 2) -> dict[str, Any]:
    """Arguments of every `DataLoader`: its processes, and how they begin.

    Args:
        workers: processes that read ahead; :func:`default_workers` if not given.
        ahead: batches that are read ahead, at least.
    """
    workers = default_workers() if workers is None else workers
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "prefetch_factor": max(2, math.ceil(ahead / workers)) if workers else None,
        "pin_memory": torch.cuda.is_available(),
        # The loader draws its workers' seeds from this generator, and so leaves the global one alone.
        "generator": torch.Generator(),
        "worker_init_fn": _leave_signals_to_the_run if workers else None,
    }


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
