"""Mean and standard deviation of every band of a data set, for images that no published statistics fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from segdistill.datasets.base import Sample, SegmentationDataset, Window
from segdistill.errors import UserError
from segdistill.files import write_json

_ROWS = 512
"""Rows that are read at a time."""


@dataclass(frozen=True)
class BandStatistics:
    """What `Network.set_normalization` wants to know of a data set.

    Attributes:
        mean: of each band, in the unit in which a network sees it: uint8 images in 0..1, float32 images as they are.
        std: standard deviation of each band, in the same unit (of all pixels, not estimated from a sample).
        pixels: the number of pixels that were counted.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int

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
            mean, std, pixels = values["mean"], values["std"], values["pixels"]
            read = cls(tuple(map(float, mean)), tuple(map(float, std)), int(pixels))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} holds no band statistics; expected mean, std and pixels") from error
        if not read.mean or len(read.mean) != len(read.std) or not all(value > 0 for value in read.std):
            raise UserError(
                f"{path} holds mean {read.mean} and std {read.std}; expected one each per band, std above 0"
            )
        return read


def band_statistics(dataset: SegmentationDataset, progress: bool = False) -> BandStatistics:
    """Mean and standard deviation of every band over all pixels of a data set that have a label.

    Pixels with the ignore label, those without data among them, are left out. Images are read in strips, so that one of
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
    sums, unit = _Moments(dataset.in_channels), 1
    for index in track(
        range(len(dataset)),
        description="statistics of the bands",
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    ):
        for image, labels in _strips(dataset.open(index)):
            if image.shape[0] != dataset.in_channels:
                raise UserError(
                    f"sample {dataset.ids[index]} has {image.shape[0]} bands; expected {dataset.in_channels}"
                )
            sums.add(image[:, labels != dataset.ignore_index].double())
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
    return BandStatistics(tuple((sums.mean / unit).tolist()), tuple((std / unit).tolist()), sums.pixels)


class _Moments:
    """Count, mean and sum of squared deviations of each band so far, float64."""

    def __init__(self, bands: int) -> None:
        self.pixels = 0
        self.mean = torch.zeros(bands, dtype=torch.float64)
        self.squares = torch.zeros(bands, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Further pixels, float64 (bands, N)."""
        count = values.shape[1]
        if count == 0:
            return
        mean = values.mean(1)
        total = self.pixels + count
        apart = mean - self.mean
        self.squares += (values - mean[:, None]).square_().sum(1) + apart**2 * self.pixels * count / total
        self.mean += apart * count / total
        self.pixels = total


def _strips(sample: Sample) -> Iterator[tuple[Tensor, Tensor]]:
    height, width = sample.size
    for top in range(0, height, _ROWS):
        yield sample.window(Window(top, 0, min(_ROWS, height - top), width))
