"""What a network learns to know of itself from the data that it is trained on."""

from __future__ import annotations

from dataclasses import replace

from segdistill.data.statistics import BandStatistics
from segdistill.datasets.base import SegmentationDataset
from segdistill.networks.network import Network


def describe_network(network: Network, val: SegmentationDataset, statistics: BandStatistics | None = None) -> None:
    """Write into the network's `description` what the data says: classes, colours, kind of pixels, size.

    Args:
        network: what is trained; its number of classes and channels are those of the data.
        val: the validation split, as the network is scored on it; one without classes leaves those of the network.
        statistics: of the training images, where they were taken.
    """
    pixels = val.pixel_type()
    own = network.description
    network.description = replace(
        own,
        classes=tuple(val.classes) or own.classes,
        palette=tuple(val.palette) or own.palette,
        pixels=pixels,
        value_range=None if statistics is None else _range(statistics, 255 if pixels == "uint8" else 1),
        bands=val.bands,
        resize=val.resize,
        window=val.evaluation_window,
        ignore_index=val.ignore_index,
    )


def _range(statistics: BandStatistics, unit: int) -> tuple[float, float]:
    return unit * min(statistics.minimum), unit * max(statistics.maximum)
