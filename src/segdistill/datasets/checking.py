"""Look at every mask before a long training: a bad file is told of in minute one, not in hour three."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.errors import UserError

#: Rows of an image that are looked at together.
STRIP = 2048


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


def check_dataset(dataset: SegmentationDataset, progress: bool = False) -> LabelCounts:
    """Read every mask and every image of ``dataset`` once, and count the pixels of each class.

    Args:
        dataset: any split.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: the first sample, in their order, whose image or mask is missing or broken, whose mask is of
            another size than its image, or holds a value or colour that is no class; no class but the first
            occurs beside the ignore label.
    """
    total = torch.zeros(dataset.ignore_index + 1, dtype=torch.int64)
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        counts = pool.map(lambda index: _count(dataset, index), range(len(dataset)))
        for count in track(
            counts,
            description="checking images and masks",
            total=len(dataset),
            console=Console(stderr=True),
            transient=True,
            disable=not progress,
        ):
            total += count
    finally:
        pool.shutdown(cancel_futures=True)
    result = LabelCounts(pixels=total[: len(dataset.classes)], ignored=int(total[dataset.ignore_index]))
    if result.ignored and result.pixels[0] and not result.pixels[1:].any():
        # What 0/255 masks look like under the usual ignore label: every value is allowed, and nothing can be
        # learnt.
        raise UserError(
            f"the {len(dataset)} masks from {dataset.ids[0]} on hold nothing but '{dataset.classes[0]}' and "
            f"the ignore label; masks written as 0/255 instead of 0/1 are the usual cause"
        )
    return result


def _count(dataset: SegmentationDataset, index: int) -> Tensor:
    sample = dataset.open(index)
    height, width = sample.size
    total = torch.zeros(dataset.ignore_index + 1, dtype=torch.int64)
    # The image is read as well: a truncated one must not stop a run only when its turn comes. Large ones in strips.
    for top in range(0, height, STRIP):
        _, labels = sample.window(Window(top, 0, min(STRIP, height - top), width))
        total += _count_labels(dataset, index, labels)
    return total


def _count_labels(dataset: SegmentationDataset, index: int, labels: Tensor) -> Tensor:
    outside = (labels != dataset.ignore_index) & ((labels < 0) | (labels >= len(dataset.classes)))
    if outside.any():
        values = ", ".join(str(value) for value in sorted(set(labels[outside].tolist()))[:8])
        raise UserError(
            f"sample {dataset.ids[index]} holds the label values {values}, outside the classes 0 to "
            f"{len(dataset.classes) - 1} and the ignore label {dataset.ignore_index}"
        )
    return torch.bincount(labels.flatten(), minlength=dataset.ignore_index + 1)
