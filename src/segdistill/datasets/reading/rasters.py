"""Raster files of any number of bands, read and written by windows: GeoTIFF, and what else GDAL knows."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import threading
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
from segdistill.datasets.reading.orientation import ORIENTATION, PHOTOMETRIC, TURNS, tiff_tags, turned
from segdistill.datasets.reading.validity import alpha_band, valid_pixels
from segdistill.errors import UserError, missing_package, reason
from segdistill.files import UNFINISHED, permissions

TIFF = (".tif", ".tiff")

RASTERS = (*TIFF, ".jp2", ".img", ".vrt")
"""Files that rasterio reads by windows."""

BLOCK = 256
"""Side of the tiles that are written, in pixels: a training crop then reads few pixels that it does not show."""

# By default GDAL keeps a twentieth of the machine's memory, in each process; the system's file cache is enough. Files
# beside the raster (.msk, .aux.xml, .tfw) are looked for by name, without listing a folder of 100,000 files.
_GDAL = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


_FILTERS = threading.Lock()


@dataclass(frozen=True)
class RasterHeader:
    """What the header of a raster file says.

    Attributes:
        height, width: in pixels, as the file is shown: turned by its orientation tag.
        bands: their number.
        dtype: numpy's name of the pixels' type, such as "uint16".
        colors: GDAL's name of what each band is, such as "red", "gray", "palette", "alpha" or "undefined".
        tiled: whether a window can be read without much of what lies around it.
        nodata: for each band, the value of pixels without data, or None.
        has_mask: whether the file has a mask of valid pixels, inside of it or beside it (.msk).
        alpha: number of the band that says which pixels are transparent, see `validity.alpha_band`; None: none does.
        scales, offsets: of each band; they are not applied to the values that are read.
        bits: of a pixel in one band, such as 1 for a bilevel file.
        photometric: the TIFF tag: 0 shows 0 as white, 5 is CMYK, 6 YCbCr, 8 CIE L*a*b*; None in other files.
        orientation: the TIFF tag, 1 to 8; 1 in files with a place on the map, whose place ignores it, and in others.
        pages: number of images in the file, of which the first is read.
        transform: a, b, c, d, e, f of the map's x = a column + b row + c and y = d column + e row + f; None: none.
    """

    height: int
    width: int
    bands: int
    dtype: str
    colors: tuple[str, ...]
    tiled: bool
    nodata: tuple[float | None, ...]
    has_mask: bool
    alpha: int | None
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    bits: int
    photometric: int | None
    orientation: int
    pages: int
    transform: tuple[float, ...] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


def has_rasterio() -> bool:
    """Whether the extra ``segdistill[geo]`` is installed."""
    return importlib.util.find_spec("rasterio") is not None


def read_by_rasterio(path: Path) -> bool:
    """Whether a file is a raster that rasterio reads by windows; without it TIFFs are read by PIL, whole."""
    suffix = path.suffix.lower()
    return suffix in RASTERS and (has_rasterio() or suffix not in TIFF)


def require_rasterio(purpose: str) -> Any:
    """The module rasterio.

    Raises:
        UserError: it is not installed; ``purpose`` says what needs it.
    """
    if not has_rasterio():
        raise missing_package(purpose, "rasterio", "geo")
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
    beside = tuple((file.name, file.stat().st_mtime_ns) for file in _beside(path))
    return _read_header(path, state.st_mtime_ns, state.st_size, beside)


def with_companions(path: Path) -> tuple[Path, ...]:
    """An image file and those from which its pixels come, too: its mask, its no-data values, the sources of a .vrt."""
    if not read_by_rasterio(path):
        return (path,)
    if path.suffix.lower() != ".vrt" or not path.exists():
        return (path, *_beside(path))
    with opened(path) as file:
        sources = [Path(source) for source in file.files if os.path.isfile(source)]  # some lie on a server
        return (path, *(one for source in sources for one in (source, *_beside(source)) if one != path))


def _beside(path: Path) -> list[Path]:
    mask, notes = (path.with_name(f"{path.name}{ending}") for ending in (".msk", ".aux.xml"))
    # A viewer writes its statistics into the notes, which change nothing.
    return [mask] * mask.is_file() + [notes] * (notes.is_file() and b"<NoDataValue" in notes.read_bytes())


@lru_cache(maxsize=4096)
def _read_header(path: Path, changed: int, size: int, beside: tuple[tuple[str, int], ...]) -> RasterHeader:
    with opened(path) as file:
        if len(set(file.dtypes)) > 1:
            raise UserError(f"{path} has bands of the types {', '.join(file.dtypes)}; expected one type")
        flags = importlib.import_module("rasterio.enums").MaskFlags
        _, columns = file.block_shapes[0]
        height, width = file.height, file.width
        tags = tiff_tags(path)
        placed = file.crs is not None or not file.transform.is_identity or bool(file.gcps[0]) or file.rpcs is not None
        orientation = 1 if placed else tags.get(ORIENTATION, 1)
        return RasterHeader(
            *((width, height) if TURNS[orientation][0] else (height, width)),
            bands=file.count,
            dtype=file.dtypes[0],
            colors=tuple(color.name for color in file.colorinterp),
            # What is stored in few pixels is as good as tiled.
            tiled=columns < width or height * width <= 4 * BLOCK * BLOCK,
            nodata=tuple(file.nodatavals),
            has_mask=flags.per_dataset in file.mask_flag_enums[0] and flags.alpha not in file.mask_flag_enums[0],
            alpha=alpha_band(file),
            scales=tuple(file.scales),
            offsets=tuple(file.offsets),
            bits=int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * np.dtype(file.dtypes[0]).itemsize)),
            photometric=tags.get(PHOTOMETRIC),
            orientation=orientation,
            pages=max(1, len(file.subdatasets)),
            transform=None if file.transform.is_identity else tuple(file.transform)[:6],
        )


class RasterFile:
    """A raster file of which windows are read, turned as its orientation tag says.

    Each window opens the file anew, which costs little and shares nothing between processes; within ``held`` it stays
    open, so that windows that overlap decode nothing twice.

    Args:
        path: the file.

    Raises:
        UserError: missing or broken file, more than one image in it, or pixels that are no real numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        if np.dtype(self.header.dtype).kind not in "uif":
            raise UserError(f"{path} holds {self.header.dtype} pixels; expected real numbers")
        if self.header.pages > 1:
            raise UserError(f"{path} holds {self.header.pages} images; expected one, save each in a file of its own")
        self._file: Any = None

    @contextmanager
    def held(self) -> Iterator[Any]:
        """Keep the file open; gives rasterio's own object."""
        with opened(self.path) as file:
            self._file = file
            try:
                yield file
            finally:
                self._file = None

    def read(self, bands: tuple[int, ...], window: Window | None = None) -> np.ndarray:
        """Bands of the file, (len(bands), h, w), of the file's type.

        Args:
            bands: their numbers, the first band being 1.
            window: the part to read; all if None.

        Raises:
            UserError: missing or broken file.
        """
        with self._at_hand() as file:
            pixels: np.ndarray = file.read(list(bands), window=self._part(window))
        return turned(pixels, self.header.orientation)

    def read_with_valid(self, bands: tuple[int, ...], window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, and which pixels are valid, bool (h, w); None: the file has no way to say that one is not."""
        with self._at_hand() as file:
            part = self._part(window)
            pixels = file.read(list(bands), window=part)
            valid = valid_pixels(file, self.header, bands, pixels, part)
        turn = self.header.orientation
        return turned(pixels, turn), None if valid is None else turned(valid, turn)

    @contextmanager
    def _at_hand(self) -> Iterator[Any]:
        if self._file is None:
            with opened(self.path) as file:
                yield file
        else:
            with _told(self.path, importlib.import_module("rasterio")):
                yield self._file

    def _part(self, window: Window | None) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """A window as rasterio takes it: rows and columns, before the image is turned."""
        if window is None:
            return None
        top, left, height, width = window
        transposed, rows_flipped, columns_flipped = TURNS[self.header.orientation]
        if columns_flipped:
            left = self.header.width - left - width
        if rows_flipped:
            top = self.header.height - top - height
        rows, columns = (top, top + height), (left, left + width)
        return (columns, rows) if transposed else (rows, columns)


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
            raise UserError(f"cannot write {self.path}: {reason(error)}") from error

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
def opened(path: Path) -> Iterator[Any]:
    """The file in ``path``, open: rasterio's own object.

    Raises:
        UserError: missing or broken file, also while it is read within the ``with`` block.
    """
    rasterio = require_rasterio(f"reading {path}")
    if not path.is_file():
        raise UserError(f"{path} does not exist (any more)")
    with _told(path, rasterio):
        with _quiet(rasterio):
            file = rasterio.open(path)
        with file, rasterio.Env(**_GDAL):
            yield file


@contextmanager
def _told(path: Path, rasterio: Any) -> Iterator[None]:
    try:
        yield
    # Not all of GDAL's own errors become one of rasterio's.
    except (rasterio.errors.RasterioError, importlib.import_module("rasterio._err").CPLE_BaseError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).replace(f"'{path}' ", "").replace(f"{path}: ", "")
        raise UserError(f"{path} cannot be read, it is truncated or no image: {reason}") from None


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    # The filters are those of the whole process, and two threads would put each other's back.
    with _FILTERS, warnings.catch_warnings(), rasterio.Env(**_GDAL):
        # Most images of machine learning have no place on the map.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
