"""Every image of a data set through a model once: what validation, `evaluate` and `compare` count.

Scores and labels are those of each image at its own size, whatever ``resize``: what `predict` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from segdistill.data.loading import end_with_python, loader_options
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Piece, Tiling, run_scorer
from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.datasets.reading.strips import scored_sample
from segdistill.networks.network import Network

_WAITING = 4
"""Batches of images of other sizes that are held until one is full."""


class EvaluationSample(NamedTuple):
    """One image of a data set for evaluation.

    Attributes:
        number: of the image in the data set, from 0.
        image: uint8 or float32 (C, h, w) as the model sees it; None where it is larger than a window, and is to be read
            window by window.
        labels: uint8 (H, W) at the image's own size, 255 where ignored; None with ``image``.
    """

    number: int
    image: Tensor | None
    labels: Tensor | None


class EvaluationSamples(Dataset[EvaluationSample]):
    """The images of a data set as a model sees them, with their labels at the image's own size.

    Args:
        dataset: any split.
        window: as in `Tiling`.
        resize: (height, width) to which images are resized, and labels are not.
    """

    def __init__(self, dataset: SegmentationDataset, window: int | None, resize: tuple[int, int] | None) -> None:
        self.dataset = dataset.at_own_size()
        self._given = dataset
        self.window = window
        self.resize = resize

    @classmethod
    def of(cls, dataset: SegmentationDataset) -> EvaluationSamples:
        """With the data set's own evaluation window and resize."""
        return cls(dataset, dataset.evaluation_window, dataset.resize)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> EvaluationSample:
        if self.resize is not None:
            kept = self._given.scored(index) if self.resize == self._given.resize else None
            return EvaluationSample(index, *(kept or scored_sample(self.dataset, index, self.resize)))
        sample = self.dataset.open(index)
        if not Tiling(self.window).is_whole(sample.size):
            return EvaluationSample(index, None, None)
        image, labels = sample.whole()
        return EvaluationSample(index, image, labels.to(torch.uint8))


class EvaluationLoader(DataLoader[EvaluationSample]):
    """Reads every image of a data set once, in order, one at a time; `scored_parts` makes batches of them.

    Of several processes each reads its own part of the images.

    Args:
        images: what is read.
        batch_size: images that go through a model at once, at most.
        workers: processes that read ahead; `segdistill.data.loading.default_workers` if not given.
        rank: number of this process, from 0; it reads the images rank, rank + world and so on.
        world: number of processes.
    """

    def __init__(
        self, images: EvaluationSamples, batch_size: int, workers: int | None = None, *, rank: int = 0, world: int = 1
    ) -> None:
        part = images if world == 1 else Subset(images, range(rank, len(images), world))
        super().__init__(part, batch_size=None, **loader_options(workers, ahead=batch_size))
        self.images = images
        self.images_at_once = batch_size
        end_with_python(self)


class ScoredPart(NamedTuple):
    """Scores and labels of equal parts of images.

    Attributes:
        indices: of the images in their data set, B of them.
        size: (height, width) of each whole image.
        window: the part of each.
        scores: floating (B, K, h, w), on the model's device.
        labels: uint8 (B, h, w), on the CPU.
    """

    indices: tuple[int, ...]
    size: tuple[int, int]
    window: Window
    scores: Tensor
    labels: Tensor


def scored_parts(
    model: Network | TiledModel, loader: EvaluationLoader, samples: Iterable[EvaluationSample] | None = None
) -> Iterator[ScoredPart]:
    """Run a model on images of a data set: every pixel of every image once, at the size of its labels.

    Only images of equal size share a batch, so that no image is padded and scores do not depend on the batch size but
    for the rounding of batched convolutions. The parts of an image follow each other.

    Args:
        model: a network on its device; or a model that runs as the loader's images were read, with their window and
            their resize.
        loader: the images; those larger than a window are read here, window by window.
        samples: what the loader gives, where something else iterates over it, such as a progress bar.
    """
    images, batch_size = loader.images, loader.images_at_once
    if isinstance(model, Network):
        model = TiledModel.of(model, window=images.window, resize=images.resize)
    else:
        assert (model.tiling.window, model.resize) == (images.window, images.resize)
    waiting: dict[tuple[object, ...], list[EvaluationSample]] = {}
    for sample in loader if samples is None else samples:
        if sample.image is None or sample.labels is None:
            yield from _in_windows(model, images.dataset, sample.number)
            continue
        alike = waiting.setdefault((sample.image.shape, sample.image.dtype), [])
        alike.append(sample)
        if len(alike) == batch_size:
            yield from _together(model, waiting.pop((sample.image.shape, sample.image.dtype)))
        elif sum(map(len, waiting.values())) >= _WAITING * batch_size:
            yield from _together(model, waiting.pop(max(waiting, key=lambda key: len(waiting[key]))))
    for alike in waiting.values():
        yield from _together(model, alike)


def _together(model: TiledModel, samples: Sequence[EvaluationSample]) -> Iterator[ScoredPart]:
    """Images of one size, at most a batch of them."""
    images = torch.stack([sample.image for sample in samples if sample.image is not None])
    labels = [sample.labels for sample in samples if sample.labels is not None]
    if model.tiling.is_whole((images.shape[-2], images.shape[-1])):
        on_device = images.to(model.device, non_blocking=True)
        found: Tensor | list[Tensor] = run_scorer(model.scorer, on_device, model.classes)
    else:
        found = [model.scores(image) for image in images]
    if isinstance(found, Tensor) and all(truth.shape == found.shape[-2:] for truth in labels):
        size = found.shape[-2], found.shape[-1]
        numbers = tuple(sample.number for sample in samples)
        yield ScoredPart(numbers, size, Window(0, 0, *size), found, torch.stack(labels))
        return
    for sample, scores, truth in zip(samples, found, labels, strict=True):
        size = truth.shape[0], truth.shape[1]
        for piece in model.at_size(scores, size):
            yield _part(sample.number, size, piece, truth)


def _in_windows(model: TiledModel, dataset: SegmentationDataset, index: int) -> Iterator[ScoredPart]:
    """One image that is larger than a window."""
    image = _Labelled(dataset, index)
    for piece in model.pieces(image):
        yield _part(index, image.size, piece, image.labels)


def _part(index: int, size: tuple[int, int], piece: Piece, labels: Tensor) -> ScoredPart:
    return ScoredPart((index,), size, piece.window, piece.scores[None], piece.window.cut(labels)[None])


class _Labelled:
    """An image of a data set; the labels of all that was read of it so far are kept, one byte a pixel."""

    def __init__(self, dataset: SegmentationDataset, index: int) -> None:
        self._sample = dataset.open(index)
        self.size = self._sample.size
        with torch.inference_mode(False):  # another thread writes into them
            self.labels = torch.empty(self.size, dtype=torch.uint8)

    def read(self, window: Window) -> tuple[Tensor, None]:
        """See `ReadableImage`."""
        pixels, labels = self._sample.window(window)
        window.cut(self.labels).copy_(labels)
        return pixels, None
