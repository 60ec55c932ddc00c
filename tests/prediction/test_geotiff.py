"""What a label map keeps of its GeoTIFF, and how bands and missing data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.data import scoring
from segdistill.datasets import Images
from segdistill.datasets.reading import strips
from segdistill.datasets.reading.image_folders import images_below
from segdistill.errors import UserError
from segdistill.prediction import rasters
from segdistill.prediction.geotiff import PROBABILITY_STEPS, Raster
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pictures import photo
from tests.prediction.pointwise import CLASSES, PALETTE, Counted, labels_of, predictor, scores
from tests.prediction.rasters import ALL, PLACE, ROTATED, blobs, labels_in, noise, predicted, write_tif

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


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


@pytest.mark.parametrize("side", [2048, 100])
def test_the_overlay_of_a_raster_is_half_colour_half_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr(rasters, "OVERLAY_SIDE", side)
    monkeypatch.setattr(rasters, "STRIP", 7)
    pixels = noise(height=301, width=350)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif", wanted=Wanted(overlay=True))  # windows of 64
    step = {2048: 1, 100: 4}[side]
    mixed = np.array(Image.open(tmp_path / "out-overlay.png")).astype(float)
    colours = np.array(PALETTE)[labels_in(tmp_path / "out.tif")[::step, ::step]]
    expected = (pixels.transpose(1, 2, 0)[::step, ::step].astype(float) + colours) / 2
    assert mixed.shape == expected.shape
    assert np.abs(mixed - expected).max() <= 1


def test_label_maps_among_the_images_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_tif(tmp_path / "a.tif", blobs(700, 800), **PLACE)
    names = ["b-overlay.png", "c.png"]  # the first is a photograph, whatever its name
    for name in names:
        photo(folder / name)
    (tmp_path / "a.tif").rename(folder / "a.tif")
    images = [folder / name for name in ("a.tif", *names)]
    predict_files(predictor(), folder, folder / "labels", wanted=Wanted(overlay=True, probabilities=True))
    assert len([file for file in (folder / "labels").iterdir() if file.suffix != ".xml"]) == 7
    assert images_below(folder) == images == [folder / name for name in Images(folder).ids]
    assert len(predict_files(predictor(), folder, tmp_path / "again")) == 3
    with pytest.raises(UserError, match="labels holds only label maps of segdistill; expected files ending in"):
        images_below(folder / "labels")
