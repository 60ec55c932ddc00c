"""Polygons of a label map, in the coordinates of its GeoTIFF."""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill.errors import UserError
from segdistill.prediction import polygons
from segdistill.prediction.job import Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import CLASSES, predictor
from tests.prediction.rasters import PLACE, ROTATED, blobs, labels_in, noise, write_tif

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def rings_of(polygon: bytes) -> list[list[tuple[float, float]]]:
    """Rings of a polygon in well-known binary, read back by hand."""
    order, kind, count = struct.unpack_from("<BII", polygon)
    assert (order, kind) == (1, 3)
    place, rings = 9, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", polygon, place)
        numbers = struct.unpack_from(f"<{2 * length}d", polygon, place + 4)
        rings.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
        place += 4 + 16 * length
    assert place == len(polygon)
    return rings


def area_of(ring: list[tuple[float, float]]) -> float:
    """By the shoelace formula."""
    assert ring[0] == ring[-1]
    (left, top), *_ = ring
    moved = [(x - left, y - top) for x, y in ring]
    return abs(sum(a * d - b * c for (a, b), (c, d) in itertools.pairwise(moved))) / 2


def test_polygons_cover_what_the_labels_do(tmp_path: Path) -> None:
    pytest.importorskip("pyogrio")
    pixels = blobs()
    pixels[:, 10:30, 40:90] = 0
    write_tif(tmp_path / "a.tif", pixels, nodata=0, **PLACE)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True))
    from pyogrio import raw

    meta, _, found, (labels, names) = raw.read(tmp_path / "out.gpkg")
    assert meta["crs"] == "EPSG:32633"
    assert [CLASSES[label] for label in labels] == list(names)
    pixel = abs(ROTATED.determinant)
    whole = labels_in(tmp_path / "out.tif")
    for label in range(3):
        rings = [rings_of(polygon) for polygon, kind in zip(found, labels, strict=True) if kind == label]
        areas = sum(area_of(outline) - sum(map(area_of, holes)) for outline, *holes in rings)
        assert math.isclose(areas, (whole == label).sum() * pixel, rel_tol=1e-6)


def test_more_polygons_than_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyogrio = pytest.importorskip("pyogrio")
    monkeypatch.setattr(polygons, "_AT_ONCE", 4)
    chequers = np.zeros((3, 8, 9), dtype=np.uint8)
    chequers[:, ::2, ::2] = chequers[:, 1::2, 1::2] = 255
    write_tif(tmp_path / "a.tif", chequers)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True))
    assert pyogrio.read_info(tmp_path / "out.gpkg")["features"] == 72


def test_polygons_are_valid_where_holes_touch_the_outline(tmp_path: Path) -> None:
    raw, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    pixels = np.zeros((3, 5, 5), dtype=np.uint8)
    pixels[:, 1, 1] = pixels[:, 2, 2] = pixels[:, 0, 2] = 255  # a hole, one that touches it, a notch that touches both
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True))
    _, _, found, (labels, _) = raw.read(tmp_path / "out.gpkg")
    areas = shapely.from_wkb(found)
    assert shapely.is_valid(areas).all()
    assert sorted(labels) == [0, 2, 2, 2]
    assert math.isclose(areas[labels == 0][0].area, 22 * abs(ROTATED.determinant), rel_tol=1e-9)


def control_points(height: int, width: int) -> list[Any]:
    return [
        rasterio.control.GroundControlPoint(row, column, 10 + column / 100 - row / 1000, 50 - row / 200)
        for row, column in ((0, 0), (0, width), (height, 0), (height, width))
    ]


def test_polygons_of_a_raster_placed_by_control_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    pixels = np.zeros((3, 30, 40), dtype=np.uint8)
    pixels[:, 10:20, 5:25] = 255
    write_tif(tmp_path / "a.tif", pixels, gcps=control_points(30, 40), crs="EPSG:4326")
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True), quiet=False)
    assert "no coordinate reference system" not in capsys.readouterr().err
    meta, _, found, (labels, _) = raw.read(tmp_path / "out.gpkg")
    assert meta["crs"] == "EPSG:4326"
    bright = shapely.from_wkb(found)[list(labels).index(2)]
    corners = shapely.Polygon(
        [(10 + x / 100 - y / 1000, 50 - y / 200) for x, y in ((5, 10), (25, 10), (25, 20), (5, 20))]
    )
    assert shapely.hausdorff_distance(bright, corners) < 1e-9


def test_rational_polynomials_are_kept_and_place_the_polygons(tmp_path: Path) -> None:
    raw, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    one, across, down = ([float(place == index) for place in range(20)] for index in (0, 1, 2))
    # Column and row rise with longitude and fall with latitude: 40 columns over 0.4 degrees, 30 rows over 0.3.
    rpcs = rasterio.rpc.RPC(
        err_bias=None, err_rand=None, height_off=120.0, height_scale=500.0, lat_off=50.0, lat_scale=0.15,
        line_den_coeff=one, line_num_coeff=[-value for value in down], line_off=14.5, line_scale=15.0, long_off=10.0,
        long_scale=0.2, samp_den_coeff=one, samp_num_coeff=across, samp_off=19.5, samp_scale=20.0,
    )  # fmt: skip
    pixels = np.zeros((3, 30, 40), dtype=np.uint8)
    pixels[:, 10:20, 5:25] = 255
    write_tif(tmp_path / "a.tif", pixels)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.rpcs = rpcs
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.rpcs.to_dict() | {"err_bias": None, "err_rand": None} == rpcs.to_dict()
    meta, _, found, (labels, _) = raw.read(tmp_path / "out.gpkg")
    assert meta["crs"] == "EPSG:4326"
    bright = shapely.from_wkb(found)[list(labels).index(2)]
    expected = shapely.box(9.8 + 0.05, 50.15 - 0.20, 9.8 + 0.25, 50.15 - 0.10)
    assert shapely.hausdorff_distance(bright, expected) < 1e-4


def test_without_pyogrio_vector_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    monkeypatch.setattr(polygons.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vector needs the package pyogrio: pip install 'segdistill\[geo\]'"):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(vector=True))
