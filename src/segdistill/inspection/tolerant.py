"""Data sets that open although some of their files are missing, broken or do not pair."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from segdistill.arguments import construct
from segdistill.colors import parse_color, parse_palette
from segdistill.datasets import CamVid
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.files import FileDataset, Pair, existing_folder
from segdistill.datasets.reading.images import read_rgb
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.rasters import read_header
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.errors import UserError
from segdistill.inspection.findings import Finding
from segdistill.inspection.pairing import camvid_pairs, camvid_root, folder_pairs


class TolerantFiles(FileDataset, ABC):
    """A data set of files that opens although some of its files do not pair.

    Attributes:
        findings: what is wrong with the files.
        reader: turns mask files into labels.
    """

    findings: tuple[Finding, ...]
    reader: MaskReader

    @abstractmethod
    def image_alone(self, index: int) -> Tensor:
        """The image of one sample, (C, H, W), whether or not its mask can be read."""

    def mask_alone(self, index: int) -> Tensor:
        """The label map of one sample, int64 (H, W), whether or not its image can be read."""
        return self.reader.read(self.pairs[index][1])


class TolerantFolder(TileDataset, TolerantFiles):
    """`segdistill.datasets.Folder` with its arguments and layouts, which opens broken trees too.

    Every pixel is looked at and nothing is written, so ``resize`` and ``tiled_copy`` change nothing here.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        split: str = "train",
        palette: Sequence[str | Sequence[int]] | None = None,
        ignore: int = IGNORE_INDEX,
        ignore_color: str | Sequence[int] | None = None,
        mask_values: Mapping[int, int] | None = None,
        resize: Sequence[int] | None = None,
        bands: Sequence[int] | None = None,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 1,
        evaluation_window: int | None = None,
    ) -> None:
        existing_folder(Path(root), "a folder that holds images/ and masks/")
        colors = None if palette is None else parse_palette(palette, classes)
        ignored = None if ignore_color is None else parse_color(ignore_color, argument="ignore_color")
        pairing = folder_pairs(Path(root), split)
        pairs = pairing.pairs if bands is None else _readable_first(pairing.pairs)
        reader = MaskReader(len(classes), ignore=ignore, palette=colors, ignore_color=ignored, values=mask_values)
        super().__init__(
            pairs,
            reader,
            classes=classes,
            palette=colors,
            resize=resize,
            bands=bands if pairs else None,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )
        self.resize = None
        self.findings = tuple(pairing.findings)
        self.reader = reader

    def image_alone(self, index: int) -> Tensor:
        """See `TolerantFiles`."""
        return self._image(index).whole()[0]


class TolerantCamVid(TolerantFiles):
    """`segdistill.datasets.CamVid` with its arguments and layouts, which opens broken trees too."""

    def __init__(self, root: str | Path, split: str = "train", resize: Sequence[int] | None = None) -> None:
        existing_folder(Path(root), "the folder of CamVid that holds train/ and trainannot/")
        pairing = camvid_pairs(camvid_root(Path(root)), split)
        reader = MaskReader(len(CamVid.CLASSES), ignore=len(CamVid.CLASSES))
        super().__init__(pairing.pairs, reader, classes=CamVid.CLASSES, palette=CamVid.PALETTE, resize=resize)
        self.resize = None  # every pixel is looked at
        self.findings = tuple(pairing.findings)
        self.reader = reader

    def image_alone(self, index: int) -> Tensor:
        """See `TolerantFiles`."""
        return read_rgb(self.pairs[index][0])


TOLERANT: dict[str, type[TolerantFiles]] = {"folder": TolerantFolder, "camvid": TolerantCamVid}
"""The data sets that open although files are missing; others are built as for a run."""


def open_tolerantly(data: Mapping[str, Any], split: str) -> TolerantFiles:
    """One split of a data set in `TOLERANT`.

    Args:
        data: a recipe's ``data``.
        split: its name.

    Raises:
        UserError: a root that does not exist, or a wrong argument.
    """
    kind = TOLERANT[data["dataset"]]
    reading = {key: value for key, value in data.items() if key in inspect.signature(kind).parameters}
    return construct(kind, reading | {"split": split}, "data")


def _readable_first(pairs: list[Pair]) -> list[Pair]:
    """The pairs, one with a readable image first: the first image says how the bands of all are stored."""
    for number, pair in enumerate(pairs):
        try:
            read_header(pair[0])
        except UserError:
            continue
        return [pair, *pairs[:number], *pairs[number + 1 :]]
    return []
