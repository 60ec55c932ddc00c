"""From the pixels of a mask file to labels: index masks through a table, colour masks through a palette."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Mask

from segdistill.colors import Color, hex_color
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.datasets.reading.images import RGB, image_size
from segdistill.datasets.reading.pictures import decoded, refuse_deep, stored_numbers
from segdistill.datasets.reading.rasters import RasterFile, read_by_rasterio
from segdistill.datasets.reading.validity import is_alpha
from segdistill.errors import UserError

_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
_COLOR_MODES = ("RGB", "RGBA", "RGBX")
_NO_RGB = (5, 8)
"""TIFFs in CMYK and CIE L*a*b*, whose conversion would change the colours a little."""

_UNKNOWN = -1


class NeitherError(UserError):
    """A mask whose pixels are neither numbers nor colours."""


class MaskPixels(NamedTuple):
    """What a mask file holds in a part of it.

    Attributes:
        values: numbers (h, w) or colours, uint8 (3, h, w).
        blank: bool (h, w), pixels without a label, whatever they hold: a colour mask is transparent there, or the mask
            inside the file or beside it hides them; None: there are none.
        nodata: bool (h, w), pixels that hold the no-data value of the file, which may also be a class; None: none do.
    """

    values: np.ndarray
    blank: np.ndarray | None = None
    nodata: np.ndarray | None = None


class MaskFile:
    """The numbers or colours of a mask file, of which windows are read.

    The numbers are those in the file, whatever colour they are shown in: those of a palette, and those of a TIFF that
    shows 0 as white.

    Args:
        path: a picture, decoded whole at the first look, or a raster.

    Raises:
        UserError: missing or broken file; a `NeitherError` for pixels that are neither numbers nor colours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RasterFile(path) if read_by_rasterio(path) else None
        if self._file is not None:
            header = self._file.header
            kind = np.dtype(header.dtype).kind
            is_rgb = header.bands > 2 and header.dtype == "uint8" and header.photometric not in _NO_RGB
            if kind not in "ui" or not (header.bands == 1 or is_rgb):
                raise NeitherError(
                    f"{path} has {header.bands} band{'s' * (header.bands > 1)} of {header.dtype}; expected an index "
                    "mask or an RGB mask"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return image_size(self.path) if self._file is None else self._file.header.size

    @cached_property
    def _whole(self) -> tuple[np.ndarray, np.ndarray | None]:
        mask = decoded(self.path)
        if mask.mode in _INDEX_MODES:
            return stored_numbers(mask), None
        if mask.mode not in _COLOR_MODES:
            raise NeitherError(f"{self.path} has pixels of the kind {mask.mode}; expected an index mask or an RGB mask")
        refuse_deep(mask, self.path)
        channels = np.asarray(mask).transpose(2, 0, 1)
        colors, alpha = channels[:3], channels[3:]
        return colors, alpha[0] == 0 if mask.mode == "RGBA" and is_alpha(alpha, colors) else None

    def read(self, window: Window | None = None) -> MaskPixels:
        """A part of the mask; all of it if ``window`` is None."""
        if self._file is None:
            values, transparent = self._whole
            top, left, height, width = window or (0, 0, *values.shape[-2:])
            part = (..., slice(top, top + height), slice(left, left + width))
            return MaskPixels(values[part], None if transparent is None else transparent[part])
        header = self._file.header
        bands = (1,) if header.bands == 1 else RGB
        values, valid = self._file.read_with_valid(bands, window or Window(0, 0, *header.size))
        if header.bands == 1:
            values = values[0]
        missing = None if valid is None else ~valid
        says_so = header.has_mask or (header.alpha is not None and header.alpha not in bands)
        return MaskPixels(values, missing) if says_so else MaskPixels(values, nodata=missing)


class MaskReader:
    """Reads mask files as label maps, and refuses every value that is not a class.

    Index masks hold the class number itself; colours of a palette in them are not looked at. RGB masks need
    ``palette``.

    Args:
        classes: number of classes K.
        ignore: the index in the file that stands for "ignored"; it becomes 255. It may be one of 0..K-1,
            which then never occurs as a class.
        palette: the colour of each class in RGB masks.
        ignore_color: the colour of ignored pixels in RGB masks.
        values: what numbers in index masks stand for where that is not the class of that number: a class, or 255 for
            ignored pixels.

    Attributes:
        identity: all that the labels depend on besides the file; two readers of one identity read alike.
    """

    def __init__(
        self,
        classes: int,
        *,
        ignore: int = IGNORE_INDEX,
        palette: tuple[Color, ...] | None = None,
        ignore_color: Color | None = None,
        values: Mapping[int, int] | None = None,
    ) -> None:
        if not 0 <= ignore < 2**16:
            raise UserError(f"ignore is {ignore}; expected the index of ignored pixels in the masks, 0 to 65535")
        self.classes = classes
        self.ignore = ignore
        self.palette = palette
        self.values = _checked_values(values)
        self.identity = f"{classes} {ignore} {palette} {ignore_color} {sorted(self.values.items())}"
        self._table = np.full(2**16, _UNKNOWN, dtype=np.int16)
        self._table[:classes] = np.arange(classes)
        self._table[ignore] = IGNORE_INDEX
        self._beyond: dict[int, int] = {}
        for value, label in self.values.items():
            if not (0 <= label < classes or label == IGNORE_INDEX):
                raise UserError(
                    f"mask_values says that {value} is the class {label}; expected a class from 0 to {classes - 1}, or "
                    f"{IGNORE_INDEX} for ignored pixels"
                )
            if 0 <= value < len(self._table):
                self._table[value] = label
            else:
                self._beyond[value] = label
        colors = {_packed(color): label for label, color in enumerate(palette or ())}
        if ignore_color is not None:
            colors[_packed(ignore_color)] = IGNORE_INDEX
        self._colors = np.array(sorted(colors), dtype=np.int32)
        self._color_labels = np.array([colors[color] for color in sorted(colors)], dtype=np.int16)

    @property
    def known(self) -> frozenset[int]:
        """The numbers that an index mask may hold."""
        return frozenset(np.flatnonzero(self._table != _UNKNOWN).tolist()) | frozenset(self._beyond)

    def is_class(self, number: float) -> bool:
        """Whether a number in an index mask stands for a class."""
        return number in self.known and number != self.ignore and self.values.get(int(number)) != IGNORE_INDEX

    def size(self, path: Path) -> tuple[int, int]:
        """(height, width) of a mask file, from its header where that says it."""
        return image_size(path)

    def read(self, path: Path, size: tuple[int, int] | None = None) -> Tensor:
        """The label map, int64 (H, W), resized to ``size`` (height, width) if given: nearest neighbours.

        Raises:
            UserError: missing or broken file, a value or colour that is no class, a colour mask without
                palette.
        """
        return resized_labels(self.decode(MaskFile(path).read(), path), size)

    def decode(self, pixels: MaskPixels, path: Path) -> Tensor:
        """The label map, int64 (H, W), of pixels from ``path``; no-data values that are no class are ignored.

        Args:
            pixels: numbers or colours.
            path: where they come from, for messages.

        Raises:
            UserError: a value or colour that is no class, or colours without a palette.
        """
        values, blank, nodata = pixels
        if values.ndim == 2:
            found, labels = values, self._from_indices(values)
        elif self.palette is None:
            raise UserError(f"{path} is an RGB mask, and no palette says which colour is which class")
        else:
            found = packed(values)
            labels = self._label_of_color.take(found)
        if blank is not None:
            labels[blank] = IGNORE_INDEX
        if nodata is not None:
            labels[nodata & (labels == _UNKNOWN)] = IGNORE_INDEX
        if labels.min() == _UNKNOWN:
            unknown = np.unique(found[labels == _UNKNOWN])
            (self._refuse_numbers if values.ndim == 2 else self._refuse_colors)(unknown, path)
        return torch.from_numpy(labels.astype(np.int64))

    @cached_property
    def _label_of_color(self) -> np.ndarray:
        """A label for each of the 2^24 colours: 32 MB, and several times as fast as a search."""
        table = np.full(2**24, _UNKNOWN, dtype=np.int16)
        table[self._colors] = self._color_labels
        return table

    def _from_indices(self, values: np.ndarray) -> np.ndarray:
        if values.dtype in (np.uint8, np.uint16, np.bool_):
            return self._table[values.astype(np.uint16, copy=False)]
        inside = (values >= 0) & (values < len(self._table))
        labels = np.where(inside, self._table[np.where(inside, values, 0)], np.int16(_UNKNOWN))
        for value, label in self._beyond.items():
            labels[values == value] = label
        return labels

    def _refuse_numbers(self, unknown: np.ndarray, path: Path) -> None:
        found = unknown.tolist()
        shown = ", ".join(str(value) for value in found[:8]) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"{path} holds the label value{'s' * (len(found) > 1)} {shown}, outside the classes 0 to "
            f"{self.classes - 1} and the ignore label {self.ignore} (masks written as 0/255, or from "
            "an RGB palette, are the usual cause; numbers that stand for classes are named in mask_values, such as "
            f"{{{found[0]}: {min(1, self.classes - 1)}}})"
        )

    def _refuse_colors(self, found: np.ndarray, path: Path) -> None:
        names = [hex_color((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255)) for c in found[:4]]
        raise UserError(
            f"{path} holds the colour{'s' * (len(found) > 1)} {', '.join(names)}"
            f"{', ...' * (len(found) > 4)}, not in the palette (give the colour of ignored pixels as "
            "ignore_color)"
        )


def _checked_values(values: Mapping[int, int] | None) -> dict[int, int]:
    """``mask_values`` as an argument of a data set, if it says of whole numbers what they stand for."""
    if values is None:
        return {}
    is_mapping = isinstance(values, Mapping)
    if not is_mapping or not all(isinstance(number, Integral) for pair in values.items() for number in pair):
        raise UserError(
            f"mask_values is {values!r}; expected whole numbers in the masks and the class that each stands for, such "
            "as {0: 0, 255: 1}"
        )
    return {int(value): int(label) for value, label in values.items()}


def resized_labels(labels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Labels (H, W) brought to ``size`` (height, width) by nearest neighbours; themselves where ``size`` is None."""
    if size is None or labels.shape == size:
        return labels
    # NEAREST_EXACT, since NEAREST would shift labels by up to half a pixel against the bilinear image.
    nearest: Tensor = F.resize(Mask(labels), list(size), InterpolationMode.NEAREST_EXACT).as_subclass(Tensor)
    return nearest


def packed(colors: np.ndarray) -> np.ndarray:
    """Colours uint8 (3, ...) as numbers 0xrrggbb, int32 (...)."""
    numbers: np.ndarray = colors[0].astype(np.int32)
    for channel in colors[1:]:
        numbers <<= 8
        numbers |= channel
    return numbers


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
