"""Data sets of large images, of any bands, that are read by windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Mask

from segdistill.colors import Color
from segdistill.datasets.base import IGNORE_INDEX, Sample, Window
from segdistill.datasets.reading.files import FileDataset, Pair
from segdistill.datasets.reading.images import image_size, read_rgb
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.rasters import TiledWriter, has_rasterio, read_header, read_raster, require_rasterio
from segdistill.errors import UserError
from segdistill.progress import tracked

_TIFF = (".tif", ".tiff")
_RGB = (1, 2, 3)
_UNKNOWN = -1
_ROWS = 512
"""Rows that are converted at a time."""


class WindowMaskReader(MaskReader):
    """A reader of masks that also takes pixels which were read already, a window's.

    Args:
        classes, ignore, palette, ignore_color: see :class:`MaskReader`.
    """

    def __init__(
        self,
        classes: int,
        *,
        ignore: int = IGNORE_INDEX,
        palette: tuple[Color, ...] | None = None,
        ignore_color: Color | None = None,
    ) -> None:
        super().__init__(classes, ignore=ignore, palette=palette, ignore_color=ignore_color)
        self.identity = f"{classes} {ignore} {palette} {ignore_color}"
        """All that the labels depend on besides the file: two readers of one identity read alike."""

    @cached_property
    def _label_of_color(self) -> np.ndarray:
        """A label for each of the 2^24 colours: 32 MB, and several times as fast as a search."""
        table = np.full(2**24, _UNKNOWN, dtype=np.int16)
        table[self._colors] = self._color_labels
        return table

    def decode(self, values: np.ndarray, path: Path) -> Tensor:
        """The label map, int64 (H, W), of pixels from ``path``.

        Args:
            values: indices (H, W) or colours (3, H, W).
            path: where they come from, for messages.

        Raises:
            UserError: a value or colour that is no class, or colours without a palette.
        """
        if values.ndim == 2:
            return torch.from_numpy(self._from_indices(values, path).astype(np.int64))
        packed = values[0].astype(np.int32)
        for channel in values[1:]:
            packed <<= 8
            packed |= channel
        labels = self._label_of_color.take(packed)
        if labels.min() == _UNKNOWN:
            labels = self._from_colors(values.transpose(1, 2, 0), path)  # which says what is wrong
        return torch.from_numpy(labels.astype(np.int64))


class TileDataset(FileDataset):
    """Pairs of files of which training reads crops and evaluation reads windows, never the whole.

    GeoTIFFs are read by windows where rasterio is installed, fast if they are stored in tiles, and other files whole.
    With ``tiled_copy`` images that are not stored in tiles, and all masks, are converted once into tiled GeoTIFFs.

    Images without ``bands`` are RGB, uint8. With ``bands``, files of 8 bits give uint8 images and all others float32
    ones of the values in the file: those want :func:`segdistill.data.statistics.band_statistics`. In a float32 image a
    pixel without data, that is NaN, infinite or the file's nodata value in any band, becomes 0 and is ignored.

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
        reader: WindowMaskReader,
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
        self.bands = None if bands is None else _checked_bands(bands)
        self.heights = None if heights is None else tuple(heights)
        self.crops_per_image = crops_per_image
        self.evaluation_window = evaluation_window
        self.in_channels = len(self.bands or _RGB) + (heights is not None)
        self._mask_reader = reader
        self._dtype = torch.uint8
        self._converted: tuple[_Converted, ...] | None = None
        if self.bands is not None or heights is not None or tiled_copy is not None:
            require_rasterio(f"reading {pairs[0][0]} with bands, heights or a tiled copy")
        if self.bands is not None:
            self._dtype = _RasterImage(pairs[0][0], self.bands).dtype
        if tiled_copy is not None:
            self._converted = self._convert_all(Path(tiled_copy))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.resize is None:
            return self.open(index).whole()
        if self.bands is None:
            return super().__getitem__(index)
        image, labels = self._source(index).whole()
        return (
            F.resize(image, list(self.resize), InterpolationMode.BILINEAR, antialias=True),
            F.resize(Mask(labels), list(self.resize), InterpolationMode.NEAREST_EXACT).as_subclass(Tensor),
        )

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

    def _sample(self, index: int) -> _FileSample:
        if self._converted is None:
            return self._source(index)
        image, labels = self._converted[index]
        if image is None:
            return _FileSample(self._image(index), _LabelMap(labels))
        return _FileSample(_RasterImage(image, tuple(range(1, self.in_channels + 1))), _LabelMap(labels))

    def _source(self, index: int) -> _FileSample:
        """The sample in its own files, not in the tiled copy."""
        heights = None if self.heights is None else _Heights(self.heights[index])
        return _FileSample(self._image(index), _Masks(self.pairs[index][1], self._mask_reader), heights)

    def _image(self, index: int) -> _Image:
        path = self.pairs[index][0]
        if self.bands is None:
            return _RasterImage(path, _RGB) if _is_rgb_raster(path) else _Picture(path)
        image = _RasterImage(path, self.bands)
        if image.dtype != self._dtype:
            raise UserError(
                f"{path} holds {image.header.dtype} pixels, but {self.pairs[0][0]} holds "
                f"{read_header(self.pairs[0][0]).dtype}; expected 8 bits in all images or in none"
            )
        return image

    def _convert_all(self, folder: Path) -> tuple[_Converted, ...]:
        """The converted files of every sample, made if they are not there yet."""
        targets = [self._targets(folder, index) for index in range(len(self))]
        missing = [index for index, files in enumerate(targets) if any(file and not file.is_file() for file in files)]
        if missing:
            console = Console(stderr=True)
            console.out(f"converting {len(missing)} images into tiles in {folder}, once", highlight=False)
            for index in tracked(missing, "converting", len(missing), console):
                self._convert(index, *targets[index])
        return tuple(targets)

    def _targets(self, folder: Path, index: int) -> _Converted:
        """The files that stand for a sample; a changed file, or other bands or classes, get others."""
        heights = () if self.heights is None else (self.heights[index],)
        told = [self._mask_reader.identity, str(self.bands)]
        for path in (*self.pairs[index], *heights):
            try:
                state = path.stat()
            except OSError:
                raise UserError(f"{path} does not exist (any more)") from None
            told.append(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}")
        name = f"{self.ids[index]}-{hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()}"
        image = self._image(index)
        as_it_is = not heights and isinstance(image, _RasterImage) and image.header.tiled
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


class _Image(Protocol):
    """An image file of which windows are read, uint8 or float32 (C, h, w); NaN where there is no data."""

    path: Path

    @property
    def size(self) -> tuple[int, int]: ...

    def read(self, window: Window) -> Tensor: ...


class _Labels(Protocol):
    """A mask file of which windows are read, as labels int64 (h, w)."""

    path: Path

    @property
    def size(self) -> tuple[int, int]: ...

    def read(self, window: Window) -> Tensor: ...


class _FileSample(Sample):
    """A sample in its files."""

    def __init__(self, image: _Image, mask: _Labels, heights: _Heights | None = None) -> None:
        self.image = image
        self.mask = mask
        self.heights = heights

    @property
    def size(self) -> tuple[int, int]:
        size, mask = self.image.size, self.mask.size
        if size != mask:
            raise UserError(
                f"{self.mask.path} is {mask[1]} x {mask[0]} pixels but its image {self.image.path} is "
                f"{size[1]} x {size[0]}"
            )
        return size

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        image, labels = self.image.read(window), self.mask.read(window)
        if self.heights is not None:
            image = torch.cat([image, self.heights.read(window, self.size).to(image.dtype)])
        if image.is_floating_point():
            missing = ~image.isfinite().all(0)
            image[:, missing] = 0
            labels = labels.masked_fill(missing, IGNORE_INDEX)
        return image, labels


class _Picture:
    """An RGB picture, decoded whole at the first look."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> tuple[int, int]:
        return image_size(self.path)

    @cached_property
    def _pixels(self) -> Tensor:
        return read_rgb(self.path)

    def read(self, window: Window) -> Tensor:
        return window.cut(self._pixels).contiguous()


class _RasterImage:
    """Bands of a raster file."""

    def __init__(self, path: Path, bands: tuple[int, ...]) -> None:
        self.path = path
        self.header = read_header(path)
        self.bands = bands
        if max(bands) > self.header.bands:
            raise UserError(f"{path} has {self.header.bands} bands; expected band {max(bands)}, named in bands")
        if np.dtype(self.header.dtype).kind not in "uif":
            raise UserError(f"{path} holds {self.header.dtype} pixels; expected real numbers")

    @property
    def size(self) -> tuple[int, int]:
        return self.header.height, self.header.width

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.header.dtype == "uint8" else torch.float32

    def read(self, window: Window) -> Tensor:
        pixels = read_raster(self.path, self.bands, window)
        if self.dtype == torch.uint8:
            return torch.from_numpy(pixels)
        values = pixels.astype(np.float32)
        if self.header.nodata is not None:
            values[pixels == self.header.nodata] = np.nan
        return torch.from_numpy(values)


class _Heights:
    """One band of heights beside an image; where it is a pixel too small its last row or column is repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        if self.header.dtype != "uint8":
            raise UserError(f"{path} holds {self.header.dtype} pixels; expected heights of 8 bits")

    def read(self, window: Window, size: tuple[int, int]) -> Tensor:
        """Heights, uint8 (1, h, w), of an image of ``size``."""
        short = (size[0] - self.header.height, size[1] - self.header.width)
        if not all(0 <= pixels <= 1 for pixels in short):
            raise UserError(
                f"{self.path} is {self.header.width} x {self.header.height} pixels but its image is "
                f"{size[1]} x {size[0]}"
            )
        # A window that lies in the missing line alone still reads the line before it.
        top, left = min(window.top, self.header.height - 1), min(window.left, self.header.width - 1)
        height = min(window.height, self.header.height - top)
        width = min(window.width, self.header.width - left)
        pixels = read_raster(self.path, (1,), Window(top, left, height, width))
        margins = ((0, 0), (0, window.height - height), (0, window.width - width))
        return torch.from_numpy(np.pad(pixels, margins, mode="edge"))


class _Masks:
    """A mask file: by windows where it is a TIFF that rasterio reads, else whole at the first look."""

    def __init__(self, path: Path, reader: WindowMaskReader) -> None:
        self.path = path
        self._reader = reader
        self._header = read_header(path) if path.suffix.lower() in _TIFF and has_rasterio() else None
        if self._header is not None and (self._header.bands == 2 or np.dtype(self._header.dtype).kind not in "ui"):
            raise UserError(
                f"{path} has {self._header.bands} bands of {self._header.dtype}; expected an index mask or an RGB mask"
            )

    @property
    def size(self) -> tuple[int, int]:
        return image_size(self.path) if self._header is None else (self._header.height, self._header.width)

    @cached_property
    def _whole(self) -> Tensor:
        return self._reader.read(self.path)

    def read(self, window: Window) -> Tensor:
        if self._header is None:
            return window.cut(self._whole)
        if self._header.bands == 1:
            indices = read_raster(self.path, (1,), window)[0]
            return self._reader.decode(indices if indices.itemsize == 1 else indices.astype(np.int32), self.path)
        return self._reader.decode(read_raster(self.path, _RGB, window), self.path)


class _LabelMap:
    """A converted mask, whose pixels are labels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = read_header(path)

    @property
    def size(self) -> tuple[int, int]:
        return self._header.height, self._header.width

    def read(self, window: Window) -> Tensor:
        return torch.from_numpy(read_raster(self.path, (1,), window)[0].astype(np.int64))


def _is_rgb_raster(path: Path) -> bool:
    """Whether a file is a TIFF of red, green and blue in 8 bits; of other pictures PIL makes RGB.

    Raises:
        UserError: a TIFF that would lose bands or depth.
    """
    if path.suffix.lower() not in _TIFF or not has_rasterio():
        return False
    header = read_header(path)
    if header.dtype == "uint8" and header.bands == 3:
        return True
    if header.dtype == "uint8" and (header.bands == 1 or header.colors[-1] in ("alpha", "black")):
        return False
    raise UserError(
        f"{path} has {header.bands} bands of {header.dtype}, which is no RGB picture; name those to read in bands, "
        "the first being 1"
    )


def _checked_bands(bands: Sequence[int]) -> tuple[int, ...]:
    if not bands or min(bands) < 1 or len(set(bands)) < len(bands):
        raise UserError(f"bands is {bands!r}; expected numbers of bands, the first being 1, each once")
    return tuple(bands)
