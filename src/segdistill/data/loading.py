"""Batches, (images uint8 (B, C, H, W), labels int64 (B, H, W)), in an order fixed by (seed, epoch)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segdistill.data.augmentation import Augmentation, padding_color
from segdistill.data.seeding import keyed_generator
from segdistill.datasets.base import SegmentationDataset

Batch = tuple[Tensor, Tensor]


class TrainingSamples(Dataset[Batch]):
    """Augmented views of a data set, indexed by (epoch, index).

    The epoch travels with the index, so that long-lived worker processes need not be told of it. An index
    beyond
    the end counts on from the start: ``index % len(dataset)``, a further view of that sample.
    """

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        image, mask = self.dataset[index % len(self.dataset)]
        return self.augmentation(image, mask, key=(self.seed, epoch, index))


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) of every sample in an order that is a function of (seed, epoch), in full batches only.

    The samples over that fill no batch are left out of the epoch, others each time. A data set smaller than
    one batch is gone through again and again until the batch is full, each time in other views.

    Args:
        length: number of samples in the data set.
        seed: of the order.
        batch_size: of the loader.

    Example:
        >>> sampler = EpochSampler(length=5, seed=0, batch_size=2)
        >>> len(sampler)
        4
        >>> sampler.set_epoch(7)
        >>> {epoch for epoch, _ in sampler}
        {7}
    """

    def __init__(self, length: int, seed: int, batch_size: int) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning, or by your own loop, before each epoch; without it every epoch is the same."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.length // self.batch_size, 1) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        count = max(self.length, len(self))
        order = torch.randperm(count, generator=keyed_generator(self.seed, self.epoch))
        for index in order[: len(self)].tolist():
            yield self.epoch, index


def training_loader(
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    workers: int | None = None,
) -> DataLoader[Batch]:
    """Full batches of augmented views; the same for every number of workers.

    Args:
        dataset: the train split.
        augmentation: must bring all images to one size.
        batch_size: samples per batch.
        seed: of order and augmentation; call ``loader.sampler.set_epoch(epoch)`` before each epoch (Lightning
            does).
        workers: processes that read ahead; :func:`default_workers` if not given.
    """
    return _loader(
        TrainingSamples(dataset, augmentation, seed),
        batch_size,
        workers,
        sampler=EpochSampler(len(dataset), seed, batch_size),
    )


def evaluation_loader(dataset: SegmentationDataset, batch_size: int, workers: int | None = None) -> DataLoader[Batch]:
    """Every sample once, in order, as it is.

    Images of different size in one batch are padded on the right and at the bottom, with mean grey; their
    labels there are the ignore label, so that no added pixel counts.
    """
    collate = partial(padded_batch, ignore_index=dataset.ignore_index)
    return _loader(dataset, batch_size, workers, collate_fn=collate)


def padded_batch(samples: Sequence[Batch], ignore_index: int) -> Batch:
    """Stack samples, each padded on the right and at the bottom to the largest height and width."""
    height = max(mask.shape[0] for _, mask in samples)
    width = max(mask.shape[1] for _, mask in samples)
    channels = samples[0][0].shape[0]
    grey = torch.tensor(padding_color(channels), dtype=torch.uint8)
    images = grey[None, :, None, None].repeat(len(samples), 1, height, width)
    labels = torch.full((len(samples), height, width), ignore_index, dtype=torch.int64)
    for number, (image, mask) in enumerate(samples):
        images[number, :, : image.shape[1], : image.shape[2]] = image
        labels[number, : mask.shape[0], : mask.shape[1]] = mask
    return images, labels


def default_workers() -> int:
    """Processes that read ahead if the user names no number.

    On a GPU, one per core but one, at most 8. On the CPU training itself wants the cores, and reading is a
    small
    part of a step: a worker only where there are more than 2 cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1)) if torch.cuda.is_available() else min(2, (cores - 1) // 2)


def _loader(
    dataset: Dataset[Batch],
    batch_size: int,
    workers: int | None,
    sampler: EpochSampler | None = None,
    collate_fn: partial[Batch] | None = None,
) -> DataLoader[Batch]:
    workers = default_workers() if workers is None else workers
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate_fn,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # The loader draws its workers' seeds from this generator, and so leaves the global one alone.
        generator=torch.Generator(),
    )
