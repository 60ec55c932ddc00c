"""The areas of a label map as polygons in a GeoPackage."""

from __future__ import annotations

import importlib
import importlib.util
import struct
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.rasters import require_rasterio
from segdistill.errors import UserError

_AT_ONCE = 10_000
"""Polygons that are written at a time."""

Ring = Sequence[tuple[float, float]]
"""Corners (x, y), the first one again at the end."""


def require_pyogrio() -> Any:
    """The module pyogrio.raw.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("pyogrio") is None:
        raise UserError("vector needs the package pyogrio: pip install 'segdistill[geo]'")
    return importlib.import_module("pyogrio.raw")


def write_polygons(labels: Path, target: Path, classes: Sequence[str]) -> None:
    """Write every area of one class as a polygon, with the number and the name of the class.

    Areas that touch at a corner alone are apart; pixels without data belong to none. The polygons of the whole map are
    held in memory while they are found.

    Args:
        labels: a raster file of class indices.
        target: the GeoPackage; there must be no such file yet.
        classes: names of the classes.
    """
    raw = require_pyogrio()
    rasterio = require_rasterio(f"reading {labels}")
    with warnings.catch_warnings(), rasterio.open(labels) as file:
        crs = None if file.crs is None else file.crs.to_wkt()
        areas = _areas(file)
        append = False
        warnings.filterwarnings("ignore", "'crs' was not provided")  # which was told already
        # Once at least: a map without data has a layer without areas.
        while (chunk := list(islice(areas, _AT_ONCE))) or not append:
            found = np.array([label for label, _ in chunk], dtype=np.int32)
            raw.write(
                target,
                geometry=np.array([polygon for _, polygon in chunk], dtype=object),
                field_data=[found, np.array([classes[label] for label in found], dtype=object)],
                fields=["class", "name"],
                layer="areas",
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=append,
            )
            append = True


def well_known_binary(rings: Sequence[Ring]) -> bytes:
    """A polygon in the binary form of the Open Geospatial Consortium's Simple Features (06-103r4, section 8.2).

    Args:
        rings: its outline, then those of its holes.

    Example:
        >>> len(well_known_binary([[(0, 0), (1, 0), (1, 1), (0, 0)]]))
        77
    """
    # 1: little-endian; 3: polygon.
    parts = [struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, dtype="<f8").tobytes()]
    return b"".join(parts)


def _areas(file: Any) -> Iterator[tuple[int, bytes]]:
    """Label and polygon of every area."""
    features, rasterio = importlib.import_module("rasterio.features"), require_rasterio("finding polygons")
    for shape, value in features.shapes(rasterio.band(file, 1), connectivity=4, transform=file.transform):
        if value != IGNORE_INDEX:
            yield int(value), well_known_binary(shape["coordinates"])
