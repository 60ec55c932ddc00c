"""Data sets of large images, of any bands, that are read by windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from segdistill.datasets.base import Sample, Window
from segdistill.datasets.reading.file_samples import FileSample, Heights, LabelMap, WindowedMask
from segdistill.datasets.reading.files import FileDataset, Pair
from segdistill.datasets.reading.images import RGB, ImageFile, is_tiled, open_image, resized
from segdistill.datasets.reading.masks import MaskReader, resized_labels
from segdistill.datasets.reading.rasters import TiledWriter, read_header, require_rasterio
from segdistill.errors import UserError
from segdistill.progress import counted, tracked

READING = "4"
"""Changes with the rules by which files are read, so that what was converted by others is not used."""

_ROWS = 512
"""Rows that are converted at a time."""


class TileDataset(FileDataset):
    """Pairs of files of which training reads crops and evaluation reads windows, never the whole.

    GeoTIFFs are read by windows where rasterio is installed, fast if they are stored in tiles, and other files whole.
    With ``tiled_copy`` images that are not stored in tiles, and all masks, are converted once into tiled GeoTIFFs.

    Images without ``bands`` are RGB, uint8. With ``bands``, files of 8 bits give uint8 images and all others float32
    ones of the values in the file: those want :func:`segdistill.data.statistics.band_statistics`. A pixel that is not
    valid (by the file's mask, alpha channel or nodata value, or NaN: see `segdistill.datasets.reading.validity`)
    becomes 0 and is ignored.

    Args:
        pairs: image and mask file of every sample.
        reader: turns the pixels of masks into labels.
        classes, palette, resize: see :class:`FileDataset`.
        bands: numbers of the bands to read, the first being 1.
        heights: one file of 8 bits per sample, whose first band becomes one more channel.
        tiled_copy: a folder for converted files; None: nothing is converted.
        crops_per_image: training samples that an epoch takes from each image.
        evaluation_window: longest side of what goes through a network at once in evaluation, in pixels; None: whole
            images.

    Raises:
        UserError: an argument out of its range, files that need rasterio while it is not installed, or, with
            ``tiled_copy``, a file that cannot be read.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        reader: MaskReader,
        *,
        classes: Sequence[str],
        palette: Sequence[str | Sequence[int]] | None = None,
        resize: Sequence[int] | None = None,
        bands: Sequence[int] | None = None,
        heights: Sequence[Path] | None = None,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 1,
        evaluation_window: int | None = None,
    ) -> None:
        super().__init__(pairs, reader, classes=classes, palette=palette, resize=resize)
        if crops_per_image < 1:
            raise UserError(f"crops_per_image is {crops_per_image}; expected at least 1")
        if evaluation_window is not None and evaluation_window < 32:
            raise UserError(f"evaluation_window is {evaluation_window}; expected 32 pixels or more")
        if resize is not None and tiled_copy is not None:
            raise UserError("resize reads images whole and tiled_copy is for reading windows; give one of them")
        self.bands = None if bands is None else checked_bands(bands)
        self.heights = None if heights is None else tuple(heights)
        self.crops_per_image = crops_per_image
        self.evaluation_window = evaluation_window
        self.in_channels = len(self.bands or RGB) + (heights is not None)
        self._dtype = torch.uint8
        self._converted: tuple[_Converted, ...] | None = None
        if self.bands is not None or heights is not None or tiled_copy is not None:
            require_rasterio(f"reading {pairs[0][0]} with bands, heights or a tiled copy")
        if self.bands is not None:
            self._dtype = open_image(pairs[0][0], self.bands).dtype
        if tiled_copy is not None:
            self._converted = self._convert_all(Path(tiled_copy))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.resize is None:
            return self.open(index).whole()
        image, labels = self._source(index).whole()
        return resized(image, self.resize), resized_labels(labels, self.resize)

    def labels(self, index: int) -> Tensor:
        """The label map at its full size, int64 (H, W), whatever ``resize``; the image's header is read.

        Pixels that are ignored because the image has no data there keep their label here.
        """
        sample = self._sample(index)
        return sample.mask.read(Window(0, 0, *sample.size))

    def open(self, index: int) -> Sample:
        """One sample, of which windows are read; with ``resize`` it is read whole."""
        return self._sample(index) if self.resize is None else super().open(index)

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return "uint8" if self._dtype == torch.uint8 else read_header(self.pairs[0][0]).dtype

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        return super().files(index) + (() if self.heights is None else (self.heights[index],))

    def _sample(self, index: int) -> FileSample:
        if self._converted is None:
            return self._source(index)
        image, labels = self._converted[index]
        if image is None:
            return FileSample(self._image(index), LabelMap(labels))
        return FileSample(open_image(image, tuple(range(1, self.in_channels + 1))), LabelMap(labels))

    def _source(self, index: int) -> FileSample:
        """The sample in its own files, not in the tiled copy."""
        heights = None if self.heights is None else Heights(self.heights[index])
        return FileSample(self._image(index), WindowedMask(self.pairs[index][1], self._reader), heights)

    def _image(self, index: int) -> ImageFile:
        image = open_image(self.pairs[index][0], self.bands)
        if self.bands is not None and image.dtype != self._dtype:
            found, first = (read_header(path).dtype for path in (image.path, self.pairs[0][0]))
            raise UserError(
                f"{image.path} holds {found} pixels, but {self.pairs[0][0]} holds {first}; expected 8 bits in all "
                "images or in none"
            )
        return image

    def _convert_all(self, folder: Path) -> tuple[_Converted, ...]:
        """The converted files of every sample, made if they are not there yet."""
        targets = [self._targets(folder, index) for index in range(len(self))]
        missing = [index for index, files in enumerate(targets) if any(file and not file.is_file() for file in files)]
        if missing:
            console = Console(stderr=True)
            console.out(f"converting {counted(len(missing), 'image')} into tiles in {folder}, once", highlight=False)
            for index in tracked(missing, "converting", len(missing), console):
                self._convert(index, *targets[index])
        return tuple(targets)

    def _targets(self, folder: Path, index: int) -> _Converted:
        """The files that stand for a sample; a changed file, or other bands or classes, get others."""
        told = [READING, self._reader.identity, str(self.bands)]
        for path in self.files(index):
            try:
                state = path.stat()
            except OSError:
                raise UserError(f"{path} does not exist (any more)") from None
            told.append(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}")
        name = f"{self.ids[index]}-{hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()}"
        as_it_is = self.heights is None and is_tiled(self._image(index))
        return None if as_it_is else folder / f"{name}.tif", folder / f"{name}-labels.tif"

    def _convert(self, index: int, image_file: Path | None, label_file: Path) -> None:
        sample = self._source(index)
        height, width = size = sample.size
        dtype = "uint8" if self._dtype == torch.uint8 else "float32"
        with ExitStack() as stack:
            images = None
            if image_file is not None:
                images = stack.enter_context(TiledWriter(image_file, size=size, bands=self.in_channels, dtype=dtype))
            # Label maps are large areas of one value, and small even when compressed in haste.
            writer = TiledWriter(label_file, size=size, bands=1, dtype="uint8", compress="deflate")
            masks = stack.enter_context(writer)
            for top in range(0, height, _ROWS):
                window = Window(top, 0, min(_ROWS, height - top), width)
                image, labels = sample.window(window)
                if images is not None:
                    images.write(image.numpy(), window)
                masks.write(labels[None].numpy().astype(np.uint8), window)


_Converted = tuple[Path | None, Path]
"""Image and label map of one sample; no image where its own file is tiled already."""


def checked_bands(bands: Sequence[int]) -> tuple[int, ...]:
    """``bands`` as an argument of a data set, if they are numbers of bands."""
    is_listed = isinstance(bands, Sequence) and all(isinstance(band, Integral) for band in bands)
    if not bands or not is_listed or min(bands) < 1 or len(set(bands)) < len(bands):
        raise UserError(f"bands is {bands!r}; expected numbers of bands, the first being 1, each once")
    return tuple(bands)
