"""Mean, deviation and range of every band of a data set, for images that no published statistics fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from segdistill.datasets.base import SegmentationDataset
from segdistill.datasets.reading.checking import pieces
from segdistill.errors import UserError
from segdistill.files import write_json
from segdistill.progress import tracked

_NO_DATA = (-9999.0, -99999.0, -32767.0, -32768.0)
_NO_MEASUREMENT = 1e30
"""Values that stand for "no data" in many files which do not say so; numbers as large as a float's largest, too."""

_PIXELS = 2**20
"""Pixels that are summed at a time, in float64."""


@dataclass(frozen=True)
class BandStatistics:
    """What `Network.set_normalization` wants to know of a data set.

    Attributes:
        mean: of each band, in the unit in which a network sees it: uint8 images in 0..1, float32 images as they are.
        std: standard deviation of each band, in the same unit (of all pixels, not estimated from a sample).
        minimum, maximum: of each band, in the same unit.
        pixels: the number of pixels that were counted.
        ignored: share of all pixels that were not, because they have no label.
        missing: share of all pixels that have no data either: ignored, and 0 in every band, as pixels are read that are
            NaN, infinite or the file's nodata value.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    pixels: int
    ignored: float
    missing: float

    def save(self, path: str | Path) -> None:
        """Write them to a JSON file, atomically."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> BandStatistics:
        """Read them from a JSON file that :meth:`save` wrote.

        Raises:
            UserError: the file is missing, or holds something else.
        """
        try:
            values: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            mean, std, low, high = (tuple(map(float, values[key])) for key in ("mean", "std", "minimum", "maximum"))
            read = cls(mean, std, low, high, int(values["pixels"]), float(values["ignored"]), float(values["missing"]))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} holds no band statistics; expected a file that `segdistill data stats` wrote"
            ) from error
        if not mean or len({len(mean), len(std), len(low), len(high)}) > 1 or not _normalises(mean, std):
            raise UserError(
                f"{path} holds mean {mean} and std {std}; expected a number each for every band, std above 0"
            )
        return read

    def doubts(self) -> list[str]:
        """A sentence for each band whose lowest or highest value is one that files use for pixels without data."""
        return [
            f"a value of band {number} is {value:.9g}, which mostly stands for pixels without data; if it does here, "
            f"the files must name it, or it is taken for a measurement: gdal_edit.py -a_nodata {value:.9g} FILE"
            for number, ends in enumerate(zip(self.minimum, self.maximum, strict=True), start=1)
            for value in ends
            if value in _NO_DATA or abs(value) >= _NO_MEASUREMENT
        ]

    def padding(self, dtype: torch.dtype) -> tuple[float, ...]:
        """The mean of each band as images of ``dtype`` have it: what they are padded with, so that padding is 0."""
        scale = 1 if dtype.is_floating_point else 255
        return tuple(scale * mean for mean in self.mean)


def _normalises(mean: Sequence[float], std: Sequence[float]) -> bool:
    return all(map(isfinite, (*mean, *std))) and min(std) > 0


def band_statistics(dataset: SegmentationDataset, progress: bool = False) -> BandStatistics:
    """Mean, standard deviation and range of every band over all pixels of a data set that have a label.

    Pixels with the ignore label, those without data among them, are left out. Images are read in pieces, so that one of
    any size takes little memory. Sums are in float64, and merged by Chan, Golub and LeVeque, *Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances*, 1979, so that a large mean hides no small deviation.

    Args:
        dataset: the train split.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: an image that cannot be read or has another number of bands, no pixel with a label, or a band of one
            value.

    Example:
        >>> from segdistill.datasets import SyntheticAerial
        >>> statistics = band_statistics(SyntheticAerial(count=2, size=(32, 32)))
        >>> len(statistics.mean), statistics.pixels
        (3, 2048)
    """
    sums, unit, ignored, missing = _Moments(dataset.in_channels), 1, 0, 0
    images = range(len(dataset))
    for index in tracked(images, "statistics of the bands", len(images), Console(stderr=True), progress):
        sample = dataset.open(index)
        for piece in pieces(sample.size):
            image, labels = sample.window(piece)
            if image.shape[0] != dataset.in_channels:
                raise UserError(
                    f"sample {dataset.ids[index]} has {image.shape[0]} bands; expected {dataset.in_channels}"
                )
            counted = labels != dataset.ignore_index
            sums.add(image[:, counted])
            left_out = image[:, ~counted]
            ignored += left_out.shape[1]
            missing += int((left_out == 0).all(0).sum())
            unit = 255 if image.dtype == torch.uint8 else 1
    if sums.pixels == 0:
        raise UserError(f"no pixel of the {len(dataset)} images from {dataset.ids[0]} on has a label")
    std = (sums.squares / sums.pixels).sqrt()
    # What rounding leaves of no deviation at all.
    flat = (std <= 1e-12 * sums.mean.abs()).nonzero().flatten().tolist()
    if flat:
        raise UserError(
            f"channel {flat[0] + 1} of the images is {sums.mean[flat[0]]:g} in every pixel; leave that band out"
        )
    pixels = sums.pixels + ignored

    def of_bands(values: Tensor) -> tuple[float, ...]:
        return tuple((values / unit).tolist())

    return BandStatistics(
        of_bands(sums.mean),
        of_bands(std),
        of_bands(sums.minimum),
        of_bands(sums.maximum),
        sums.pixels,
        ignored / pixels,
        missing / pixels,
    )


class _Moments:
    """Count, mean, sum of squared deviations, smallest and largest value of each band so far, float64."""

    def __init__(self, bands: int) -> None:
        self.pixels = 0
        self.mean = torch.zeros(bands, dtype=torch.float64)
        self.squares = torch.zeros(bands, dtype=torch.float64)
        self.minimum = torch.full((bands,), inf, dtype=torch.float64)
        self.maximum = torch.full((bands,), -inf, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Further pixels, (bands, N) of any type."""
        for start in range(0, values.shape[1], _PIXELS):
            self._add(values[:, start : start + _PIXELS].double())

    def _add(self, values: Tensor) -> None:
        count = values.shape[1]
        mean = values.mean(1)
        total = self.pixels + count
        apart = mean - self.mean
        self.squares += (values - mean[:, None]).square_().sum(1) + apart**2 * self.pixels * count / total
        self.mean += apart * count / total
        self.pixels = total
        self.minimum = self.minimum.minimum(values.amin(1))
        self.maximum = self.maximum.maximum(values.amax(1))
