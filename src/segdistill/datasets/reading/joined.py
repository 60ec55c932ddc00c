"""Labelled and unlabelled images side by side, as training draws from both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from segdistill.datasets.base import UNLABELLED, SegmentationDataset

if TYPE_CHECKING:
    from segdistill.datasets.base import Sample


class Joined(SegmentationDataset):
    """The samples of a labelled data set, and behind them those of an unlabelled one.

    Each has as many places as it has training samples, and at least as many as a batch takes of it: a place beyond the
    end of a data set counts on from its start, and is a further crop, or a further view, of that sample.

    Args:
        labelled: the train split.
        unlabelled: of as many channels; takes ``crops_per_image`` and ``fill`` from ``labelled``.
        least_labelled, least_unlabelled: how many places there are of each at least.

    Attributes:
        first_unlabelled: the first place that is one of an unlabelled image.
    """

    def __init__(
        self,
        labelled: SegmentationDataset,
        unlabelled: SegmentationDataset,
        least_labelled: int = 1,
        least_unlabelled: int = 1,
    ) -> None:
        crops = labelled.crops_per_image
        self.first_unlabelled = max(len(labelled) * crops, least_labelled)
        places = self.first_unlabelled, max(len(unlabelled) * crops, least_unlabelled)
        super().__init__(
            classes=labelled.classes,
            ids=[
                part.ids[i % len(part)]
                for part, n in zip((labelled, unlabelled), places, strict=True)
                for i in range(n)
            ],
            palette=labelled.palette,
            in_channels=labelled.in_channels,
        )
        self.take_attributes(labelled)
        self.crops_per_image = 1
        self.unlabelled_index = UNLABELLED
        self.labelled, self.unlabelled = labelled, unlabelled

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        part, number = self._place(index)
        return part[number]

    def open(self, index: int) -> Sample:
        """See `SegmentationDataset.open`."""
        part, number = self._place(index)
        return part.open(number)

    def labels(self, index: int) -> Tensor:
        """See `SegmentationDataset.labels`."""
        part, number = self._place(index)
        return part.labels(number)

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        part, number = self._place(index)
        return part.files(number)

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return self.labelled.pixel_type()

    def at_size(self, resize: tuple[int, int] | None) -> SegmentationDataset:
        """See `SegmentationDataset.at_size`."""
        unlabelled = len(self) - self.first_unlabelled
        return Joined(self.labelled.at_size(resize), self.unlabelled.at_size(resize), self.first_unlabelled, unlabelled)

    def _place(self, index: int) -> tuple[SegmentationDataset, int]:
        number = range(len(self))[index]
        if number < self.first_unlabelled:
            return self.labelled, number % len(self.labelled)
        return self.unlabelled, (number - self.first_unlabelled) % len(self.unlabelled)
