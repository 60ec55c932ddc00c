"""Raster files of any number of bands, read and written by windows: GeoTIFF, and what else GDAL knows."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segdistill.datasets.base import Window
from segdistill.errors import UserError
from segdistill.files import UNFINISHED, permissions

BLOCK = 256
"""Side of the tiles that are written, in pixels: a training crop then reads few pixels that it does not show."""

# By default GDAL keeps a twentieth of the machine's memory, in each process; the system's file cache is enough.
_GDAL = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


@dataclass(frozen=True)
class RasterHeader:
    """What a raster file says of itself.

    Attributes:
        height, width: in pixels.
        bands: their number.
        dtype: numpy's name of the pixels' type, such as "uint16".
        colors: GDAL's name of what each band is, such as "red", "gray", "palette", "alpha" or "undefined".
        tiled: whether a window can be read without much of what lies around it.
        nodata: the value of pixels without data, if the file names one.
    """

    height: int
    width: int
    bands: int
    dtype: str
    colors: tuple[str, ...]
    tiled: bool
    nodata: float | None


def has_rasterio() -> bool:
    """Whether the extra ``segdistill[geo]`` is installed."""
    return importlib.util.find_spec("rasterio") is not None


def require_rasterio(purpose: str) -> Any:
    """The module rasterio.

    Raises:
        UserError: it is not installed; ``purpose`` says what needs it.
    """
    if not has_rasterio():
        raise UserError(f"{purpose} needs the package rasterio: pip install 'segdistill[geo]'")
    return importlib.import_module("rasterio")


def read_header(path: Path) -> RasterHeader:
    """The header of a raster file; that of a file which has not changed since is remembered.

    Raises:
        UserError: missing or broken file, or bands of different types.
    """
    try:
        state = path.stat()
    except OSError:
        raise UserError(f"{path} does not exist (any more)") from None
    return _read_header(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _read_header(path: Path, changed: int, size: int) -> RasterHeader:
    with _opened(path) as file:
        if len(set(file.dtypes)) > 1:
            raise UserError(f"{path} has bands of the types {', '.join(file.dtypes)}; expected one type")
        _, columns = file.block_shapes[0]
        # What is stored in few pixels is as good as tiled.
        tiled = columns < file.width or file.height * file.width <= 4 * BLOCK * BLOCK
        colors = tuple(color.name for color in file.colorinterp)
        return RasterHeader(file.height, file.width, file.count, file.dtypes[0], colors, tiled, file.nodata)


def read_raster(path: Path, bands: tuple[int, ...], window: Window | None = None) -> np.ndarray:
    """Bands of a raster file, (len(bands), H, W), of the file's type.

    Args:
        path: the file.
        bands: their numbers, the first band being 1.
        window: the part to read; all if None.

    Raises:
        UserError: missing or broken file.
    """
    with _opened(path) as file:
        part = None
        if window is not None:
            rows = (window.top, window.top + window.height)
            part = (rows, (window.left, window.left + window.width))
        pixels: np.ndarray = file.read(list(bands), window=part)
        return pixels


class TiledWriter:
    """Writes a tiled GeoTIFF window by window; the file appears, whole, when the ``with`` block ends well.

    Args:
        path: the file.
        size: (height, width) in pixels.
        bands: their number.
        dtype: numpy's name of the pixels' type.
        compress: GDAL's name of a compression; None: none, the fastest to read.
    """

    def __init__(
        self, path: Path, *, size: tuple[int, int], bands: int, dtype: str, compress: str | None = None
    ) -> None:
        self.path = path
        self._rasterio = require_rasterio(f"writing {path}")
        self._profile = {
            "driver": "GTiff",
            "height": size[0],
            "width": size[1],
            "count": bands,
            "dtype": dtype,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "interleave": "pixel",
            "BIGTIFF": "IF_SAFER",
        } | ({} if compress is None else {"compress": compress})

    def __enter__(self) -> TiledWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-", suffix=UNFINISHED)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from error
        os.close(handle)
        self._unfinished = Path(name)
        with _quiet(self._rasterio):
            self._file = self._rasterio.open(name, "w", **self._profile)
        return self

    def write(self, pixels: np.ndarray, window: Window) -> None:
        """Write ``pixels`` (bands, h, w) at ``window``."""
        rows, columns = (window.top, window.top + window.height), (window.left, window.left + window.width)
        try:
            self._file.write(pixels, window=(rows, columns))
        except self._rasterio.errors.RasterioError as error:
            raise UserError(f"cannot write {self.path}: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if error is None:
                os.chmod(self._unfinished, permissions())
                os.replace(self._unfinished, self.path)
        except (OSError, self._rasterio.errors.RasterioError) as failure:
            raise UserError(f"cannot write {self.path}: {failure}") from failure
        finally:
            self._unfinished.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file in ``path``, open; opening anew for each window costs little, and nothing is shared by processes."""
    rasterio = require_rasterio(f"reading {path}")
    if not path.is_file():
        raise UserError(f"{path} does not exist (any more)")
    try:
        with _quiet(rasterio), rasterio.open(path) as file:
            yield file
    except rasterio.errors.RasterioError as error:
        reason = error.__cause__ or error
        raise UserError(f"{path} cannot be read, it is truncated or no image: {reason}") from None


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    with warnings.catch_warnings(), rasterio.Env(**_GDAL):
        # Most images of machine learning have no place on the map.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
