"""The one reader of image files, pictures (PIL) and rasters (rasterio), for training, evaluation and prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segdistill.datasets.base import Window
from segdistill.datasets.reading.orientation import exif_orientation, turned
from segdistill.datasets.reading.pictures import decoded, opened_picture, refuse_deep
from segdistill.datasets.reading.rasters import RASTERS, RasterFile, RasterHeader, read_by_rasterio, read_header
from segdistill.datasets.reading.validity import is_alpha
from segdistill.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Files that PIL reads, whole."""

SUFFIXES = (*PICTURES, *RASTERS)
"""Files with another suffix are not looked at."""

RGB = (1, 2, 3)

_BY_PIL = (5, 6)
"""TIFFs in CMYK and YCbCr, which PIL converts to RGB where GDAL does not."""

_LAB = (8, 9, 10)
_NO_LAB = "{path} is in CIE L*a*b* colours; expected RGB, convert it, or name the bands to read as they are in bands"


class ImageFile(ABC):
    """An image file of which windows are read.

    Attributes:
        path: the file.
        channels: C.
        dtype: torch.uint8, or torch.float32 of the values in the file.
    """

    path: Path
    channels: int
    dtype: torch.dtype

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as the image is shown: turned by its EXIF or TIFF orientation."""

    @abstractmethod
    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        """A part of the image.

        Returns:
            pixels: uint8 or float32 (C, h, w); 0 where they are not valid.
            valid: bool (h, w), see `validity`; None: all are valid.

        Raises:
            UserError: the file is broken, or not there any more.
        """

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """All of the image."""
        return self.read(Window(0, 0, *self.size))

    def held(self) -> AbstractContextManager[Any]:
        """Keep the file open while many windows are read."""
        return nullcontext()


def open_image(path: Path, bands: tuple[int, ...] | None = None) -> ImageFile:
    """An image file, to read windows of.

    Args:
        path: any picture, or any raster that GDAL knows.
        bands: numbers of the bands to read as they are in the file, the first being 1; None: red, green and blue of 8
            bits, to which grey, palette, bilevel, CMYK and YCbCr images are converted.

    Raises:
        UserError: missing or broken file, a band that it does not have, more than 8 bits where no bands are named, or a
            file that needs rasterio while it is not installed.
    """
    if bands is not None:
        return _Bands(path, bands)
    if not read_by_rasterio(path):
        return _Picture(path)
    header = read_header(path)
    if header.photometric in _LAB:
        raise UserError(_NO_LAB.format(path=path))
    if has_other_colors(header):
        return _Picture(path)
    return _Rgb(path)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is shown, from the header alone."""
    if read_by_rasterio(path):
        return read_header(path).size
    return _Picture(path).size


def has_other_colors(header: RasterHeader) -> bool:
    """Whether a TIFF's bands are no red, green and blue, but colours that PIL converts to them."""
    return header.photometric in _BY_PIL and header.colors[:3] != ("red", "green", "blue")


def is_tiled(image: ImageFile) -> bool:
    """Whether windows of an image are read without much of what lies around them."""
    return isinstance(image, _Bands) and image.file.header.tiled and image.turn == 1


def is_turned(path: Path) -> bool:
    """Whether an image's EXIF or TIFF orientation turns it on reading."""
    if read_by_rasterio(path):
        return read_header(path).orientation != 1
    return _picture_orientation(path) != 1


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The image as uint8 (3, H, W), resized to ``size`` (height, width) if given.

    Raises:
        UserError: see `open_image`.
    """
    return resized(open_image(path).whole()[0], size)


def resized(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """An image (C, H, W) brought to ``size`` (height, width): bilinear, antialiased; itself where ``size`` is None."""
    if size is None or image.shape[-2:] == size:
        return image
    if image.dtype != torch.uint8 or len(image) != 3:
        shrunk: Tensor = F.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)
        return shrunk
    # In 8 bits PIL is the faster.
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return _channels_first(np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)))


def rgb_bands(path: Path, header: RasterHeader) -> tuple[int, ...]:
    """The bands that make a raster an RGB picture of 8 bits: three, or one that is grey or has a palette.

    Raises:
        UserError: it has others, or more than 8 bits.
    """
    plain = tuple(number for number, color in enumerate(header.colors, 1) if color != "alpha")
    # Of a file with four bands the fourth may be anything: which one is left out, its tag says.
    is_rgb = len(plain) in (1, 3) and header.bands - len(plain) <= 1
    if header.dtype != "uint8" or not is_rgb:
        raise UserError(
            f"{path} has {header.bands} bands of {header.dtype}, which is no RGB picture; name those to read in bands, "
            "the first being 1"
        )
    return plain


class _Picture(ImageFile):
    """An RGB picture, decoded whole at the first look."""

    channels = 3
    dtype = torch.uint8

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> tuple[int, int]:
        with opened_picture(self.path) as image:
            size = image.height, image.width
            return size[::-1] if exif_orientation(image, self.path) >= 5 else size

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor | None]:
        image = decoded(self.path)
        refuse_deep(image, self.path)
        if image.mode == "LAB":
            raise UserError(_NO_LAB.format(path=self.path))
        valid = None
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            whole = np.asarray(image.convert("RGBA"))
            if is_alpha(whole[..., 3], whole[..., :3].transpose(2, 0, 1)):
                valid = torch.from_numpy(whole[..., 3] > 0)
        pixels = _channels_first(np.array(image.convert("RGB")))
        if valid is not None:
            pixels[:, ~valid] = 0
        return pixels, valid

    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        pixels, valid = self._decoded
        return window.cut(pixels).contiguous(), None if valid is None else window.cut(valid)


class _Bands(ImageFile):
    """Bands of a raster as they are in the file."""

    def __init__(self, path: Path, bands: tuple[int, ...]) -> None:
        self.path = path
        self.file = RasterFile(path)
        self.bands = bands
        self.channels = len(bands)
        # A picture's orientation stands in its EXIF data, which rasterio does not look at.
        self.turn = _picture_orientation(path)
        if max(bands) > self.file.header.bands:
            raise UserError(f"{path} has {self.file.header.bands} bands; expected band {max(bands)}, named in bands")
        self.dtype = torch.uint8 if self.file.header.dtype == "uint8" else torch.float32

    @property
    def size(self) -> tuple[int, int]:
        size = self.file.header.size
        return size[::-1] if self.turn >= 5 else size

    def held(self) -> AbstractContextManager[Any]:
        return self.file.held()

    @cached_property
    def _turned(self) -> tuple[Tensor, Tensor | None]:
        pixels, valid = self._read(Window(0, 0, *self.file.header.size))
        parts = [
            None if part is None else torch.from_numpy(turned(part.numpy(), self.turn)) for part in (pixels, valid)
        ]
        assert parts[0] is not None
        return parts[0], parts[1]

    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        if self.turn == 1:
            return self._read(window)
        pixels, valid = self._turned
        return window.cut(pixels).contiguous(), None if valid is None else window.cut(valid)

    def _read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        found, valid = self.file.read_with_valid(self.bands, window)
        pixels = self._converted(found)
        if found.dtype == np.float64:  # whose largest numbers are infinite here
            finite = np.isfinite(pixels).all(0)
            valid = finite if valid is None else valid & finite
        if valid is not None:
            pixels[:, ~valid] = 0
        return torch.from_numpy(pixels), None if valid is None else torch.from_numpy(valid)

    def _converted(self, pixels: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite
            return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)


class _Rgb(_Bands):
    """A raster as an RGB picture of 8 bits."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        super().__init__(path, rgb_bands(path, header))
        self.channels = 3
        self._colors = None if len(self.bands) == 3 else self._color_table()

    def _converted(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self._colors is None else self._colors[:, pixels[0]]

    def _color_table(self) -> np.ndarray:
        """The colour of each value of a grey or palette band, uint8 (3, 256)."""
        header, band = self.file.header, self.bands[0]
        if header.colors[band - 1] == "palette":
            table = np.zeros((3, 256), dtype=np.uint8)
            with self.file.held() as file:
                for value, color in file.colormap(band).items():
                    table[:, value] = color[:3]
            return table
        largest = 2**header.bits - 1
        levels = (np.arange(256).clip(max=largest) * 255 / largest).astype(np.uint8)
        # 0 may stand for white.
        return np.repeat((255 - levels if header.photometric == 0 else levels)[None], 3, axis=0)


def _picture_orientation(path: Path) -> int:
    if path.suffix.lower() in RASTERS:
        return 1  # PIL and `RasterFile` turn these on their own
    with opened_picture(path) as image:
        return exif_orientation(image, path)


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
