"""The first few samples of another data set: for seeing whether a set-up can learn at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from segdistill.datasets.base import SegmentationDataset

if TYPE_CHECKING:
    from segdistill.datasets.base import Sample


class FirstSamples(SegmentationDataset):
    """The first ``count`` samples of ``dataset``, all of them where it has fewer."""

    def __init__(self, dataset: SegmentationDataset, count: int) -> None:
        super().__init__(
            classes=dataset.classes,
            ids=dataset.ids[:count],
            palette=dataset.palette,
            in_channels=dataset.in_channels,
        )
        self.dataset = dataset
        self.take_attributes(dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset[range(len(self))[index]]

    def open(self, index: int) -> Sample:
        """See `SegmentationDataset.open`."""
        return self.dataset.open(range(len(self))[index])

    def labels(self, index: int) -> Tensor:
        """See `SegmentationDataset.labels`."""
        return self.dataset.labels(range(len(self))[index])

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        return self.dataset.files(range(len(self))[index])

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return self.dataset.pixel_type()

    def at_size(self, resize: tuple[int, int] | None) -> SegmentationDataset:
        """See `SegmentationDataset.at_size`."""
        return FirstSamples(self.dataset.at_size(resize), len(self))
