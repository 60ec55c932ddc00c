"""From the pixels of a mask file to labels: index masks through a table, colour masks through a palette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.colors import Color, hex_color
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.images import decoded
from segdistill.errors import UserError

_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
_COLOR_MODES = ("RGB", "RGBA", "RGBX")
_UNKNOWN = -1


class MaskReader:
    """Reads mask files as label maps, and refuses every value that is not a class.

    Index masks (PIL modes 1, L, P, I, I;16) hold the class number itself; the colours of a mode P file are
    not looked at. RGB masks need ``palette``.

    Args:
        classes: number of classes K.
        ignore: the index in the file that stands for "ignored"; it becomes 255. It may be one of 0..K-1,
            which then never occurs as a class.
        palette: the colour of each class in RGB masks.
        ignore_color: the colour of ignored pixels in RGB masks.
    """

    def __init__(
        self,
        classes: int,
        *,
        ignore: int = IGNORE_INDEX,
        palette: tuple[Color, ...] | None = None,
        ignore_color: Color | None = None,
    ) -> None:
        if not 0 <= ignore < 2**16:
            raise UserError(f"ignore is {ignore}; expected the index of ignored pixels in the masks, 0 to 65535")
        self.classes = classes
        self.ignore = ignore
        self.palette = palette
        self._table = np.full(2**16, _UNKNOWN, dtype=np.int16)
        self._table[:classes] = np.arange(classes)
        self._table[ignore] = IGNORE_INDEX
        colors = {_packed(color): label for label, color in enumerate(palette or ())}
        if ignore_color is not None:
            colors[_packed(ignore_color)] = IGNORE_INDEX
        self._colors = np.array(sorted(colors), dtype=np.int32)
        self._color_labels = np.array([colors[color] for color in sorted(colors)], dtype=np.int16)

    def read(self, path: Path, size: tuple[int, int] | None = None) -> Tensor:
        """The label map, int64 (H, W), resized to ``size`` (height, width) if given: nearest neighbours.

        Raises:
            UserError: missing or broken file, a value or colour that is no class, a colour mask without
                palette.
        """
        mask = decoded(path)
        if size is not None:
            mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
        if mask.mode in _INDEX_MODES:
            labels = self._from_indices(np.asarray(mask), path)
        elif mask.mode in _COLOR_MODES:
            labels = self._from_colors(np.asarray(mask.convert("RGB")), path)
        else:
            raise UserError(f"{path} has pixels of the kind {mask.mode}; expected an index mask or an RGB mask")
        return torch.from_numpy(labels.astype(np.int64))

    def _from_indices(self, values: np.ndarray, path: Path) -> np.ndarray:
        if values.dtype == np.int32 and (values.min() < 0 or values.max() >= len(self._table)):
            labels = np.where((values < 0) | (values >= len(self._table)), _UNKNOWN, 0).astype(np.int16)
        else:
            labels = self._table[values.astype(np.uint16, copy=False)]
        if labels.min() == _UNKNOWN:
            found = np.unique(values[labels == _UNKNOWN]).tolist()
            shown = ", ".join(str(value) for value in found[:8]) + (", ..." if len(found) > 8 else "")
            raise UserError(
                f"{path} holds the label value{'s' * (len(found) > 1)} {shown}, outside the classes 0 to "
                f"{self.classes - 1} and the ignore label {self.ignore} (masks written as 0/255, or from "
                "an RGB palette, are the usual cause)"
            )
        return labels

    def _from_colors(self, values: np.ndarray, path: Path) -> np.ndarray:
        if self.palette is None:
            raise UserError(f"{path} is an RGB mask, and no palette says which colour is which class")
        packed = values.astype(np.int32)
        packed = packed[..., 0] << 16 | packed[..., 1] << 8 | packed[..., 2]
        position = np.searchsorted(self._colors, packed).clip(max=len(self._colors) - 1)
        unknown = self._colors[position] != packed
        if unknown.any():
            found = np.unique(packed[unknown])
            names = [hex_color((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255)) for c in found[:4]]
            raise UserError(
                f"{path} holds the colour{'s' * (len(found) > 1)} {', '.join(names)}"
                f"{', ...' * (len(found) > 4)}, not in the palette (give the colour of ignored pixels as "
                "ignore_color)"
            )
        labels: np.ndarray = self._color_labels[position]
        return labels


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
