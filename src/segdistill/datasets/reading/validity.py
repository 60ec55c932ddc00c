"""Which pixels of an image file are valid: the one rule of training, evaluation, statistics and prediction.

A band that is read is data and says nothing of validity. Of the rest, the first that the file has decides: its mask,
its alpha channel, its no-data values. A pixel that is NaN or infinite in a band that is read is never valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from segdistill.datasets.reading.rasters import RasterHeader

Part = tuple[tuple[int, int], tuple[int, int]] | None

_GRID = 8
_SIDE = 32
"""An alpha band is judged by 8 x 8 places of 32 x 32 pixels."""


def valid_pixels(
    file: Any, header: RasterHeader, bands: tuple[int, ...], pixels: np.ndarray, part: Part
) -> np.ndarray | None:
    """Which pixels of a part of a raster are valid.

    Args:
        file: rasterio's object, open.
        header: of the file.
        bands: numbers of the bands that were read.
        pixels: what was read, (len(bands), h, w).
        part: rows and columns that were read; all if None.

    Returns:
        bool (h, w); None: the file has no way to say that a pixel is not valid.
    """
    valid: np.ndarray | None = None
    if header.has_mask:
        valid = file.read_masks(bands[0], window=part) > 0
    elif header.alpha is not None and header.alpha not in bands:
        valid = file.read(header.alpha, window=part) > 0
    else:
        missing = has_nodata(pixels, [header.nodata[band - 1] for band in bands])
        valid = None if missing is None else ~missing
    if pixels.dtype.kind == "f":
        finite = np.isfinite(pixels).all(0)
        valid = finite if valid is None else valid & finite
    return valid


def has_nodata(pixels: np.ndarray, nodata: list[float | None]) -> np.ndarray | None:
    """Where pixels (C, h, w) hold the no-data values of their bands: bool (h, w); None where no band has one.

    In 8 bits every value may also be data, and 0 may be in any type: such a pixel is missing where all bands hold the
    value. Any other value stands for nothing else, and one band is enough.
    """
    missing: np.ndarray | None = None
    doubtful = []
    for band, value in zip(pixels, nodata, strict=True):
        if value is None or np.isnan(value):  # NaN is looked for anyway
            continue
        # The value is compared in the file's own type: float32 may not hold it.
        found = band == value
        if value == 0 or band.itemsize == 1:
            doubtful.append(found)
        else:
            missing = found if missing is None else missing | found
    if doubtful and len(doubtful) == len(pixels):
        all_of_them = np.logical_and.reduce(doubtful)
        missing = all_of_them if missing is None else missing | all_of_them
    return missing


def alpha_band(file: Any) -> int | None:
    """The band of a raster that is its alpha channel, by its tag and by its values.

    GDAL tags the fourth band of most RGB + near-infrared files as alpha, so the tag alone proves nothing.
    """
    colors = [color.name for color in file.colorinterp]
    if "alpha" not in colors:
        return None
    number = colors.index("alpha") + 1
    others = [band for band in range(1, file.count + 1) if band != number]
    samples = [file.read([*others, number], window=window) for window in _places(file.height, file.width)]
    values = np.concatenate([sample.reshape(len(sample), -1) for sample in samples], axis=1)
    return number if is_alpha(values[-1], values[:-1]) else None


def is_alpha(values: np.ndarray, colors: np.ndarray) -> bool:
    """Whether numbers look like an alpha channel: of those that are not 0 at least half are the largest there can be.

    Where all of them are 0, the picture has to be of one colour, too.

    Args:
        values: of the channel, any shape.
        colors: the other channels, (C, ...).

    Example:
        >>> is_alpha(np.uint8([0, 0, 255, 255, 128]), np.zeros((3, 5)))
        True
        >>> is_alpha(np.uint8([0, 0, 60, 80, 71]), np.zeros((3, 5)))  # near infrared: water and meadow
        False
    """
    shown = values[values > 0]
    if len(shown) == 0:
        flat = colors.reshape(len(colors), -1)
        return bool((flat == flat[:, :1]).all())
    full = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else shown.max()
    return bool(2 * np.count_nonzero(shown == full) >= len(shown))


def _places(height: int, width: int) -> list[Any]:
    if height * width <= (_GRID * _SIDE) ** 2:
        return [None]
    rows, columns = (
        sorted({round(step * (max(0, length - _SIDE)) / (_GRID - 1)) for step in range(_GRID)})
        for length in (height, width)
    )
    return [((top, min(height, top + _SIDE)), (left, min(width, left + _SIDE))) for top in rows for left in columns]
