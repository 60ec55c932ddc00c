"""The areas of a label map as polygons in a GeoPackage."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.rasters import require_rasterio
from segdistill.errors import missing_package

_AT_ONCE = 10_000
"""Polygons that are written at a time."""

Move = Callable[[np.ndarray], np.ndarray]
"""From columns and rows in pixels, float64 (N, 2), to places on the map."""


def require_pyogrio() -> Any:
    """The module pyogrio.raw.

    Raises:
        UserError: it, or shapely, is not installed.
    """
    for package in ("pyogrio", "shapely"):
        if importlib.util.find_spec(package) is None:
            raise missing_package("vector", package, "geo")
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
    shapely = importlib.import_module("shapely")
    rasterio = require_rasterio(f"reading {labels}")
    with warnings.catch_warnings(), rasterio.open(labels) as file:
        crs, move = place_of(file)
        outlines = _outlines(file)
        append = False
        warnings.filterwarnings("ignore", "'crs' was not provided")  # which was told already
        # Once at least: a map without data has a layer without areas.
        while (chunk := list(islice(outlines, _AT_ONCE))) or not append:
            found, polygons = _valid(chunk)
            raw.write(
                target,
                geometry=shapely.to_wkb(polygons if move is None else shapely.transform(polygons, move)),
                field_data=[found, np.array([classes[label] for label in found], dtype=object)],
                fields=["class", "name"],
                layer="areas",
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=append,
            )
            append = True


def place_of(file: Any) -> tuple[str | None, Move | None]:
    """Where a raster lies: its coordinate reference system, and how pixels get there.

    A file without a transform of its own is placed by its ground control points, through GDAL's polynomial, or by its
    rational polynomial coefficients at the height they are made for, in degrees of longitude and latitude.

    Args:
        file: rasterio's object, open.

    Returns:
        crs: as WKT; None: it has none.
        move: None: its transform says it all.
    """
    transforms = importlib.import_module("rasterio.transform")
    points, crs = file.gcps
    if points and file.transform.is_identity:
        through = transforms.GCPTransformer(points)
        crs = None if crs is None else crs.to_wkt()
    elif file.crs is None and file.transform.is_identity and file.rpcs is not None:
        through = transforms.RPCTransformer(file.rpcs, RPC_HEIGHT=file.rpcs.height_off)
        crs = importlib.import_module("rasterio.crs").CRS.from_epsg(4326).to_wkt()
    else:
        return None if file.crs is None else file.crs.to_wkt(), None

    def move(corners: np.ndarray) -> np.ndarray:
        return np.stack(through.xy(corners[:, 1], corners[:, 0], offset="ul"), axis=1).reshape(-1, 2)

    return crs, move


def _outlines(file: Any) -> Iterator[tuple[int, list[Any]]]:
    """Label and rings of every area, by the file's transform; in pixels where it has none."""
    features, rasterio = importlib.import_module("rasterio.features"), require_rasterio("finding polygons")
    for shape, value in features.shapes(rasterio.band(file, 1), connectivity=4, transform=file.transform):
        if value != IGNORE_INDEX:
            yield int(value), shape["coordinates"]


def _valid(outlines: Sequence[tuple[int, list[Any]]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, int32 (N,), and as many valid polygons."""
    shapely = importlib.import_module("shapely")
    labels = np.array([label for label, _ in outlines], dtype=np.int32)
    polygons = np.array([shapely.Polygon(rings[0], rings[1:]) for _, rings in outlines], dtype=object)
    # A hole that touches the outline at a corner comes as one ring that meets itself, which is no valid polygon.
    parts, owners = shapely.get_parts(shapely.make_valid(polygons), return_index=True)
    areas = shapely.get_dimensions(parts) == 2
    return labels[owners[areas]], parts[areas]
