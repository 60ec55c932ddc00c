from __future__ import annotations

import itertools
import math
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdistill.data import scoring
from segdistill.datasets.reading import strips
from segdistill.errors import UserError
from segdistill.prediction import polygons
from segdistill.prediction.geotiff import PROBABILITY_STEPS, Raster
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import CLASSES, PALETTE, Counted, labels_of, predictor, scores

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ROTATED = rasterio.transform.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5000000)
PLACE = {"crs": "EPSG:32633", "transform": ROTATED}
ALL = Wanted(probabilities=True, vector=True)


def noise(bands: int = 3, height: int = 150, width: int = 201, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (bands, height, width)).astype(dtype)


def blobs(height: int = 150, width: int = 201) -> np.ndarray:
    """Areas of some size, so that there are few polygons."""
    y, x = np.mgrid[:height, :width]
    wave = np.sin(y / 17) + np.cos(x / 23)
    return np.repeat(((wave + 2) / 4 * 255).astype(np.uint8)[None], 3, axis=0)


def write_tif(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    count, height, width = pixels.shape
    shape = {"height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(pixels)
    return path


def labels_in(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        assert file.count == 1
        found: np.ndarray = file.read(1)
        return found


def predicted(tmp_path: Path, pixels: np.ndarray, scoring: Any = scores, **options: Any) -> np.ndarray:
    write_tif(tmp_path / "a.tif", pixels, **(PLACE | options))
    predict_files(predictor(scoring), tmp_path / "a.tif", tmp_path / "out.tif")
    return labels_in(tmp_path / "out.tif")


# ------------------------------------------------------------------------------------------------ what is kept


def test_a_geotiff_keeps_its_place_and_gets_names_and_colours(tmp_path: Path) -> None:
    pixels = noise(height=700, width=600)
    assert (predicted(tmp_path, pixels) == labels_of(pixels[0])).all()
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform == ROTATED
        assert (file.dtypes, file.nodata, file.descriptions) == (("uint8",), 255, ("class",))
        assert [file.colormap(1)[label] for label in range(3)] == [(*color, 255) for color in PALETTE]
        assert file.tags(1) == {"CLASS_0": "dark", "CLASS_1": "grey", "CLASS_2": "bright"}
        # Cloud-optimised: in tiles, with smaller copies of itself.
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2]
    # GDAL itself finds the names of the classes.
    rasterio.shutil.copy(tmp_path / "out.tif", tmp_path / "seen.vrt", driver="VRT")
    described = (tmp_path / "seen.vrt").read_text()
    assert [described.find(f"<Category>{name}</Category>") > 0 for name in CLASSES] == [True] * 3
    (tmp_path / "seen.vrt").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "out.tif", "out.tif.aux.xml"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (64, 64), (65, 130), (300, 97)])
@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"},
        {"compress": "lzw", "interleave": "pixel"},
        {"BIGTIFF": "YES"},
    ],
)
def test_every_size_and_storage(tmp_path: Path, size: tuple[int, int], options: dict[str, Any]) -> None:
    pixels = noise(3, *size)
    assert (predicted(tmp_path, pixels, **options) == labels_of(pixels[0])).all()


def test_without_a_place_on_the_map_it_works_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = noise()
    write_tif(tmp_path / "a.tif", pixels)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", quiet=False)
    assert (labels_in(tmp_path / "out.tif") == labels_of(pixels[0])).all()
    told = " ".join(capsys.readouterr().err.split())
    assert "a.tif has no coordinate reference system, and neither will its label map" in told


def test_ground_control_points_are_kept(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, column, 10 + column / 100, 50 - row / 100)
        for row, column in ((0, 0), (0, 200), (149, 0), (149, 200))
    ]
    predicted(tmp_path, noise(), gcps=points, crs="EPSG:4326", transform=None)
    with rasterio.open(tmp_path / "out.tif") as file:
        found, crs = file.gcps
        assert crs.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_the_meaning_of_a_pixel_is_kept(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "a.tif") as image, rasterio.open(tmp_path / "out.tif") as file:
        assert file.tags()["AREA_OR_POINT"] == "Point"
        assert file.transform.almost_equals(image.transform)


# ------------------------------------------------------------------------------------------------ no data


def test_8_bit_pixels_lack_data_where_every_band_has_the_nodata_value(tmp_path: Path) -> None:
    pixels = noise()
    pixels[:, 20:70, 30:120] = 7
    pixels[0, :10] = 7  # one band of three
    found = predicted(tmp_path, pixels, nodata=7)
    missing = (pixels == 7).all(0)
    assert (found == np.where(missing, 255, labels_of(pixels[0]))).all()


def test_deep_pixels_lack_data_where_any_band_does(tmp_path: Path) -> None:
    pixels = noise(dtype="float32")
    pixels[0, 5, 6], pixels[1, 7, 8], pixels[2, 9, 10], pixels[0, 100, 90:] = -9999, np.nan, np.inf, -9999
    write_tif(tmp_path / "a.tif", pixels, nodata=-9999, **PLACE)
    seen: list[bool] = []

    def scoring(images: torch.Tensor) -> torch.Tensor:
        seen.append(bool(images.isfinite().all()) and images.min().item() >= 0)
        return scores(images)

    predict_files(predictor(scoring, pixels=None), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    missing = ~np.isfinite(pixels).all(0) | (pixels == -9999).any(0)
    assert missing.sum() == 3 + 201 - 90
    assert (labels_in(tmp_path / "out.tif") == np.where(missing, 255, labels_of(pixels[0]))).all()
    assert all(seen)
    with rasterio.open(tmp_path / "out-probabilities.tif") as file:
        assert ((file.read() == 255).all(0) == missing).all()


@pytest.mark.parametrize("kind", ["alpha", "mask"])
def test_alpha_and_masks_say_where_there_is_no_data(tmp_path: Path, kind: str) -> None:
    pixels, valid = noise(), np.full((150, 201), 255, dtype=np.uint8)
    valid[40:100, :80] = 0
    if kind == "alpha":
        rgba = np.concatenate([pixels, valid[None]])
        write_tif(tmp_path / "a.tif", rgba, photometric="rgb", alpha="yes", **PLACE)
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write_tif(tmp_path / "a.tif", pixels, **PLACE)
            with rasterio.open(tmp_path / "a.tif", "r+") as file:
                file.write_mask(valid)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
    assert (labels_in(tmp_path / "out.tif") == np.where(valid == 0, 255, labels_of(pixels[0]))).all()


def test_an_image_without_any_data(tmp_path: Path) -> None:
    count = Counted()
    write_tif(tmp_path / "a.tif", np.zeros((3, 150, 201), dtype=np.uint8), nodata=0, **PLACE)
    predict_files(predictor(count), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    assert count.windows == 0
    assert (labels_in(tmp_path / "out.tif") == 255).all()
    assert pytest.importorskip("pyogrio").read_info(tmp_path / "out.gpkg")["features"] == 0


# ------------------------------------------------------------------------------------------------ bands


def test_bands_are_chosen_by_number(tmp_path: Path) -> None:
    pixels = noise(5, dtype="uint16")
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    trained = predictor(in_channels=2, bands=(4, 2), pixels=None)
    predict_files(trained, tmp_path / "a.tif", tmp_path / "out.tif")
    assert (labels_in(tmp_path / "out.tif") == labels_of(pixels[3])).all()
    predict_files(trained, tmp_path / "a.tif", tmp_path / "asked.tif", options=Options(bands=(3, 1)))
    assert (labels_in(tmp_path / "asked.tif") == labels_of(pixels[2])).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = np.zeros((4, 80, 90), dtype=np.uint8)
    inks[0, :40], inks[3, 40:, :30] = 255, 255  # full cyan has no red, full black nothing, the paper all of it
    expected = np.full((80, 90), 2)
    expected[:40] = expected[40:, :30] = 0
    assert (predicted(tmp_path, inks, photometric="cmyk") == expected).all()


@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_a_single_band_of_8_bits_becomes_rgb(tmp_path: Path, kind: str) -> None:
    pixels = noise(1)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    red = np.arange(256)
    if kind == "palette":
        red = np.random.default_rng(1).permutation(256)
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_colormap(1, {value: (int(red[value]), 1, 2, 255) for value in range(256)})
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
    assert (labels_in(tmp_path / "out.tif") == labels_of(red[pixels[0]])).all()


@pytest.mark.parametrize(
    ("pixels", "options", "told"),
    [
        (noise(5), {}, r"a.tif has 5 bands, but the model takes 3; name those to read, such as --bands '\[1, 2, 3\]'"),
        (noise(2), {}, r"a.tif has 2 bands, but the model takes 3$"),
        (
            noise(3, dtype="uint16"),
            {},
            r"a.tif holds pixels of type uint16, but the model was trained on pixels of 8 bits",
        ),
        (noise(3, dtype="complex64"), {}, r"a.tif holds complex64 pixels; expected real numbers"),
    ],
)
def test_files_that_do_not_suit_the_model(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        predicted(tmp_path, pixels, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(
    ("bands", "told"),
    [((1, 2), "bands names 2 bands, but the model takes 3"), ((1, 2, 9), "has 3 bands; expected band 9")],
)
def test_bands_that_are_not_there(tmp_path: Path, bands: tuple[int, ...], told: str) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    with pytest.raises(UserError, match=told):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", options=Options(bands=bands))


# ------------------------------------------------------------------------------------------------ more than labels


def test_probabilities_are_the_softmax_in_steps(tmp_path: Path) -> None:
    pixels = noise(height=100)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(probabilities=True))
    powers = np.exp([-((pixels[0] / 127.5 - label) ** 2) for label in range(3)])
    expected = powers / powers.sum(0)
    with rasterio.open(tmp_path / "out-probabilities.tif") as file:
        assert file.descriptions == CLASSES
        assert file.transform == ROTATED
        assert file.nodata == 255
        assert np.allclose(file.read() * np.array(file.scales)[:, None, None], expected, atol=0.51 / PROBABILITY_STEPS)


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


# ------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9, 15])
def test_an_interrupted_map_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    """4 columns by 4 rows of windows: whole rows are kept, and the row before the next one is computed again."""
    pixels = noise(height=200)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(Counted(stop_after)), tmp_path / "a.tif", out, wanted=ALL)
    assert not out.exists()
    kept = list((tmp_path / ".out.tif.part").glob("labels-*"))
    rows = stop_after // 4
    assert len(kept) == stop_after
    count = Counted()
    predict_files(predictor(count), tmp_path / "a.tif", out, wanted=ALL)
    assert count.windows == 16 - 4 * max(0, rows - 1)
    assert (labels_in(out) == labels_of(pixels[0])).all()
    names = ["a.tif", "out-probabilities.tif", "out.gpkg", "out.tif", "out.tif.aux.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    predict_files(predictor(count), tmp_path / "a.tif", out, wanted=ALL)
    assert count.windows == 16 - 4 * max(0, rows - 1)


def test_an_error_at_the_very_end_costs_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyogrio")
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    count = Counted()
    with monkeypatch.context() as patch:
        patch.setattr("segdistill.prediction.geotiff.write_polygons", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(UserError, match=r"cannot write .*out.tif: gone"):
            predict_files(predictor(count), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    assert not (tmp_path / "out.tif").exists()
    before = count.windows
    predict_files(predictor(count), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    assert count.windows == before


@pytest.mark.parametrize("change", ["model", "image", "options", "probabilities", "damaged key"])
def test_work_of_another_kind_is_begun_anew(tmp_path: Path, change: str) -> None:
    pixels = noise(height=200)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(Counted(9)), tmp_path / "a.tif", out)
    count, wanted, options = Counted(), Wanted(), Options()
    identity, windows = "pointwise", 16
    if change == "model":
        identity = "another"
    elif change == "image":
        pixels = noise(height=200, seed=1)
        write_tif(tmp_path / "a.tif", pixels, compress="deflate", **PLACE)
    elif change == "options":
        options, windows = Options(flips="horizontal"), 32
    elif change == "probabilities":
        wanted = ALL
    else:
        (tmp_path / ".out.tif.part/key.json").write_text("{")
    predict_files(predictor(count, identity=identity), tmp_path / "a.tif", out, options=options, wanted=wanted)
    assert count.windows == windows
    assert (labels_in(out) == labels_of(pixels[0])).all()


KILLED = """
import os, signal, sys
from tests.prediction.pointwise import Counted, predictor
from segdistill.prediction.predict import predict_files
def die():
    os.kill(os.getpid(), signal.SIGKILL)
predict_files(predictor(Counted(10, die)), sys.argv[1], __import__("pathlib").Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_rows_to_go_on_from(tmp_path: Path) -> None:
    pixels = noise(height=200)
    image, out = write_tif(tmp_path / "a.tif", pixels, **PLACE), tmp_path / "out.tif"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(image), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    count = Counted()
    predict_files(predictor(count), image, out)
    assert count.windows in (12, 16)  # the second row may not have been written yet
    assert (labels_in(out) == labels_of(pixels[0])).all()


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}])
def test_a_truncated_file_is_told_in_one_sentence(tmp_path: Path, share: float, options: dict[str, Any]) -> None:
    path = write_tif(tmp_path / "a.tif", noise(), **PLACE, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=rf"^{path} cannot be read, it is truncated or no image: [^\n]*$"):
        predict_files(predictor(), path, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_of_several_files_the_others_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        write_tif(tmp_path / f"{name}.tif", noise(), **PLACE)
    (tmp_path / "b.tif").write_bytes(b"hello")
    with pytest.raises(UserError, match="1 of 3 images could not be predicted"):
        predict_files(predictor(), tmp_path, tmp_path / "out")
    assert "b.tif cannot be read" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a.tif", "c.tif"]


@pytest.mark.parametrize("limit", [1, 2500, 30_000])
def test_a_full_disk_is_told_and_the_work_is_not_lost(tmp_path: Path, limit: int) -> None:
    write_tif(tmp_path / "a.tif", noise(height=400, width=400), **PLACE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=r"^cannot write [^\n]*$"):
            predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out.tif").exists()
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
    assert (labels_in(tmp_path / "out.tif") == labels_of(noise(height=400, width=400)[0])).all()


def test_a_picture_as_a_name_for_a_geotiff_is_told(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    with pytest.raises(UserError, match=r"out.png ends in '.png'; expected .tif for the label map of a.tif"):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.png")
    with pytest.raises(UserError, match="overlay is for pictures and videos, and there is none among the images"):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(overlay=True))


def test_without_rasterio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    monkeypatch.setattr("segdistill.datasets.reading.rasters.has_rasterio", lambda: False)
    with pytest.raises(UserError, match=r"a.tif needs the package rasterio: pip install 'segdistill\[geo\]'"):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")


def test_overlapping_windows_decode_little_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of a file that is not tiled are decoded whole; GDAL is given room to keep a row of windows."""
    write_tif(tmp_path / "a.tif", noise(height=64, width=4000), compress="deflate")
    with Raster(tmp_path / "a.tif", described=predictor().description, bands=None, window=2048):
        from rasterio._env import get_gdal_config

        assert get_gdal_config("GDAL_CACHEMAX") == 64 * 2**20
    with Raster(tmp_path / "a.tif", described=predictor().description, bands=None, window=20_000):
        assert get_gdal_config("GDAL_CACHEMAX") == 256 * 2**20


# ----------------------------------------------------------------------------------------- larger than memory


@pytest.mark.parametrize("missing", [False, True])
def test_a_resized_raster_is_read_in_strips(tmp_path: Path, missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = blobs(300, 201)
    pixels[:, 40:90, 20:60] = 0
    file = write_tif(tmp_path / "a.tif", pixels, **PLACE, **({"nodata": 0} if missing else {}))
    options = Options(resize=(60, 40))
    predict_files(predictor(), file, tmp_path / "whole.tif", options=options)
    read, heights = Raster.read, []

    def noted(self: Raster, window: Any) -> Any:
        heights.append(window.height)
        return read(self, window)

    monkeypatch.setattr(strips, "STRIP_PIXELS", 10_000)
    monkeypatch.setattr(scoring, "STRIP_PIXELS", 10_000)
    monkeypatch.setattr(Raster, "read", noted)
    predict_files(predictor(), file, tmp_path / "strips.tif", options=options)
    assert max(heights) < 80
    assert (labels_in(tmp_path / "strips.tif") == labels_in(tmp_path / "whole.tif")).all()
    assert (labels_in(tmp_path / "strips.tif") == 255).sum() == (pixels[0] == 0).sum() * missing
