"""GeoTIFFs of any size: read by windows, written piece by piece, finished as a cloud-optimised file."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from torch import Tensor

from segdistill.colors import Color
from segdistill.data.tiling import Grid, Span
from segdistill.datasets.base import IGNORE_INDEX, Window
from segdistill.datasets.reading.image_folders import LABEL_MAP_KEY
from segdistill.datasets.reading.images import ImageFile, open_image
from segdistill.datasets.reading.rasters import BLOCK, RasterFile, opened, require_rasterio
from segdistill.errors import UserError
from segdistill.files import UNFINISHED, permissions, write_atomically, write_json, write_text
from segdistill.networks.description import Description
from segdistill.prediction.polygons import write_polygons
from segdistill.progress import counted

KEY_TAG = LABEL_MAP_KEY.upper()
"""The tag in a finished file that says what it was made from."""

COUNTS_TAG = "SEGDISTILL_PIXELS"
"""The tag that holds the counts of a map's labels, see `Labels`."""

PROBABILITY_STEPS = 254
"""A probability p is stored as round(254 p), in 8 bits; 255 marks pixels without data."""

# GDAL keeps what it decoded, so that windows that overlap decode nothing twice; at least and at most so much.
_CACHE = (64 * 2**20, 256 * 2**20)


class UnreadableError(UserError):
    """A raster that cannot be read or does not suit the model; others may."""


class Raster:
    """A raster file that is read by windows, as training reads it, open while the ``with`` block lasts.

    Files of 8 bits give uint8, all others float32 of the values in the file; pixels without data are 0, see
    `segdistill.datasets.reading.validity`.

    Args:
        path: the file.
        described: the model that is to see it.
        bands: numbers of the bands to read, the first being 1; None: all but alpha; of a single grey or palette band a
            model of three channels gets RGB.
        window: side of the windows that will be read.

    Raises:
        UnreadableError: missing or broken file, or one that does not suit the model.
    """

    def __init__(self, path: Path, *, described: Description, bands: Sequence[int] | None, window: int) -> None:
        self.path = path
        self._rasterio = require_rasterio(f"predicting {path}")
        self._asked = (described, bands)
        self._window = window

    def __enter__(self) -> Raster:
        with ExitStack() as stack:
            stack.enter_context(self._told())
            self._image = _chosen(self.path, *self._asked)
            width, pixel = self._image.size[1], self._image.channels * self._image.dtype.itemsize
            strip = self._window * width * pixel * 5 // 4
            stack.enter_context(self._image.held())
            self.file = stack.enter_context(opened(self.path))
            # Last, since it holds within what was opened before.
            stack.enter_context(self._rasterio.Env(GDAL_CACHEMAX=min(max(strip, _CACHE[0]), _CACHE[1])))
            self._undo = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(None, None, None)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image.size

    @property
    def has_place(self) -> bool:
        """Whether the file says where on earth it lies."""
        return self.file.crs is not None or bool(self.file.gcps[0]) or self.file.rpcs is not None

    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        """A part, uint8 or float32 (C, h, w), and where it has no data, bool (h, w); None: it cannot lack any."""
        with self._told():
            pixels, valid = self._image.read(window)
        return pixels, None if valid is None else ~valid

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UnreadableError:
            raise
        except UserError as error:
            raise UnreadableError(str(error)) from None


def _chosen(path: Path, described: Description, bands: Sequence[int] | None) -> ImageFile:
    """The image in the bands that suit a model."""
    header = RasterFile(path).header
    described.check_pixels(header.dtype, str(path))
    in_channels = described.in_channels
    if bands is not None:
        if len(bands) != in_channels:
            raise UserError(f"bands names {counted(len(bands), 'band')}, but the model takes {in_channels}")
        return open_image(path, tuple(bands))
    every = tuple(range(1, header.bands + 1))
    plain = tuple(number for number in every if header.colors[number - 1] != "alpha")
    if in_channels == 3 and header.dtype == "uint8" and len(plain) in (1, 3):
        return open_image(path)
    if in_channels in (len(plain), len(every)):
        return open_image(path, plain if len(plain) == in_channels else every)
    advice = f"; name those to read, such as --bands '{list(range(1, in_channels + 1))}'"
    raise UserError(
        f"{path} has {len(plain)} band{'s' * (len(plain) > 1)}, but the model takes {in_channels}"
        f"{advice * (len(plain) > in_channels)}"
    )


class UnfinishedMap:
    """The label map of a raster while it is made: a folder beside it, with a file for each finished piece.

    The final files appear, whole, when `finish` is through, the label map last; until then a kill loses the row of
    windows at hand and no more. Finishing needs room on the disk for all pixels uncompressed.

    Args:
        target: the final file.
        key: what the label map is made from; work with another key is begun anew.
        grid: the windows whose pieces are written.
        classes: names of the K classes.
        palette: a colour per class.
        probabilities: keep the probability of each class, too.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def __init__(
        self,
        target: Path,
        *,
        key: str,
        grid: Grid,
        classes: Sequence[str],
        palette: Sequence[Color],
        probabilities: bool,
    ) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}{UNFINISHED}")
        self._key = key
        self._grid = grid
        self._classes = tuple(classes)
        self._palette = tuple(palette)
        self._bands = {"labels": 1} | ({"probabilities": len(self._classes)} if probabilities else {})
        self._rasterio = require_rasterio(f"writing {target}")
        self._errors: tuple[type[Exception], ...] = (OSError, *_gdal_errors(self._rasterio))
        self._begin()

    def finished_rows(self) -> int:
        """How many rows of windows, from the first one on, need not be computed again."""
        for number, row in enumerate(self._grid.rows):
            if not all(self._file(kind, window).exists() for window in self._windows(row) for kind in self._bands):
                return number
        return len(self._grid.rows)

    def write(
        self,
        window: Window,
        labels: np.ndarray,
        probabilities: np.ndarray | None = None,
        counts: np.ndarray | None = None,
    ) -> None:
        """Write a piece.

        Args:
            window: where it lies in the image.
            labels: uint8 (h, w).
            probabilities: uint8 (K, h, w), or None.
            counts: what `Labels` counted, int64 (2, K), or None.
        """
        if counts is not None:
            self._write(self._file("counts", window), counts)
        if probabilities is not None:
            self._write(self._file("probabilities", window), probabilities)
        self._write(self._file("labels", window), labels)

    def finish(self, raster: Raster, *, vector: bool) -> list[Path]:
        """Put the pieces together, on the map where ``raster`` lies, and remove the unfinished work.

        Args:
            raster: the image, open.
            vector: write polygons, too.

        Returns:
            The files, the label map first.
        """
        with self._told():
            made = {self._final(kind): self._cloud_optimised(kind, raster) for kind in self._bands}
            if vector:
                made[self.target.with_suffix(".gpkg")] = areas = self.folder / "areas.gpkg"
                areas.unlink(missing_ok=True)
                write_polygons(made[self.target], areas, self._classes)
            # GeoTIFF has no room for the names of classes, and GDAL looks for them in this file.
            write_text(self.target.with_name(f"{self.target.name}.aux.xml"), _category_names(self._classes))
            # The label map last: it stands for all.
            for final in reversed(made):
                os.chmod(made[final], permissions())
                os.replace(made[final], final)
            shutil.rmtree(self.folder)
        return list(made)

    def _begin(self) -> None:
        key_file = self.folder / "key.json"
        described = {"key": self._key, "bands": self._bands}
        with self._told():
            if self.folder.exists():
                try:
                    known = json.loads(key_file.read_text())
                except (OSError, ValueError):
                    known = None
                if known == described:
                    return
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        write_json(key_file, described)

    def _windows(self, row: Span) -> Iterator[Window]:
        for column in self._grid.columns:
            yield Window(row.start, column.start, row.own, column.own)

    def _file(self, kind: str, window: Window) -> Path:
        return self.folder / f"{kind}-{window.top}-{window.left}.z"

    def _final(self, kind: str) -> Path:
        return self.target if kind == "labels" else self.target.with_name(f"{self.target.stem}-{kind}.tif")

    def _write(self, path: Path, pixels: np.ndarray) -> None:
        # Not by GDAL, which closes a file on a full disk without a word.
        write_atomically(path, lambda file: file.write(zlib.compress(pixels.tobytes(), level=1)))

    def pieces(self, kind: str) -> Iterator[tuple[Window, np.ndarray]]:
        """The finished pieces of the "labels" or "probabilities", each with its place, uint8 (1 or K, h, w)."""
        for row in self._grid.rows:
            for window in self._windows(row):
                pixels = np.frombuffer(zlib.decompress(self._file(kind, window).read_bytes()), dtype=np.uint8)
                yield window, pixels.reshape(self._bands[kind], window.height, window.width)

    def _counts(self) -> np.ndarray | None:
        """The counts of all pieces, added up."""
        files = [self._file("counts", window) for row in self._grid.rows for window in self._windows(row)]
        found = [np.frombuffer(zlib.decompress(file.read_bytes()), dtype=np.int64) for file in files if file.exists()]
        return np.sum(found, axis=0).reshape(2, -1) if found else None

    def _cloud_optimised(self, kind: str, raster: Raster) -> Path:
        height, width = raster.size
        whole, optimised = self.folder / f"{kind}-whole.tif", self.folder / f"{kind}-optimised.tif"
        for leftover in (whole, optimised):
            leftover.unlink(missing_ok=True)
        with _quiet(self._rasterio):
            with self._rasterio.open(
                whole,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=self._bands[kind],
                dtype="uint8",
                nodata=IGNORE_INDEX,
                crs=raster.file.crs,
                transform=raster.file.transform,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                interleave="band",
                BIGTIFF="IF_SAFER",
            ) as file:
                self._describe(kind, file, raster.file)
                for window, pixels in self.pieces(kind):
                    file.write(pixels, window=_part(window))
            importlib.import_module("rasterio.shutil").copy(
                whole,
                optimised,
                driver="COG",
                COMPRESS="DEFLATE",
                OVERVIEW_RESAMPLING="MODE" if kind == "labels" else "AVERAGE",
                BIGTIFF="IF_SAFER",
                NUM_THREADS="ALL_CPUS",
            )
            whole.unlink()
            with self._rasterio.open(optimised) as file:
                for window, pixels in self.pieces(kind):
                    if not np.array_equal(file.read(window=_part(window)), pixels):
                        raise OSError("what was written does not read back; is the disk full?")
        return optimised

    def _describe(self, kind: str, file: Any, image: Any) -> None:
        """All that goes with the pixels."""
        file.update_tags(**{KEY_TAG: self._key})
        counts = self._counts()
        if counts is not None:
            file.update_tags(**{COUNTS_TAG: json.dumps(counts.tolist())})
        points, crs = image.gcps
        if image.rpcs is not None:
            file.rpcs = image.rpcs
        if points:
            file.gcps = (points, crs)
        elif "AREA_OR_POINT" in image.tags():
            # With control points GDAL would move them by a pixel.
            file.update_tags(AREA_OR_POINT=image.tags()["AREA_OR_POINT"])
        if kind == "probabilities":
            file.scales = [1 / PROBABILITY_STEPS] * len(self._classes)
            for number, name in enumerate(self._classes, 1):
                file.set_band_description(number, name)
            return
        file.set_band_description(1, "class")
        file.update_tags(1, **{f"CLASS_{label}": name for label, name in enumerate(self._classes)})
        file.write_colormap(1, {label: (*color, 255) for label, color in enumerate(self._palette)})

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            reason = getattr(error, "strerror", None) or error.__cause__ or error
            raise UserError(f"cannot write {self.target}: {' '.join(str(reason).split())}") from None


def made_from(path: Path) -> str | None:
    """The key in a finished label map; None for any other file."""
    return _tag(path, KEY_TAG)


def counts_in(path: Path) -> np.ndarray | None:
    """The counts that `Labels` made of a finished map; None where another program has written it anew."""
    text = _tag(path, COUNTS_TAG)
    return None if text is None else np.array(json.loads(text), dtype=np.int64)


def _tag(path: Path, name: str) -> str | None:
    rasterio = require_rasterio(f"reading {path}")
    try:
        with _quiet(rasterio), rasterio.open(path) as file:
            text: str | None = file.tags().get(name)
            return text
    except _gdal_errors(rasterio):
        return None


def _gdal_errors(rasterio: Any) -> tuple[type[Exception], ...]:
    """All that rasterio raises when GDAL fails; not all of GDAL's own errors become one of rasterio's."""
    return rasterio.errors.RasterioError, importlib.import_module("rasterio._err").CPLE_BaseError


def _part(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """A window as rasterio takes it."""
    return (window.top, window.top + window.height), (window.left, window.left + window.width)


def _category_names(classes: Iterable[str]) -> str:
    names = "".join(f"      <Category>{escape(name)}</Category>\n" for name in classes)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        # An image without a place on the map is predicted all the same, with one note.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
