"""GeoTIFFs that cannot be predicted are told of in one sentence, and spoil no others."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill.errors import UserError
from segdistill.prediction.job import Options
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import labels_of, predictor
from tests.prediction.rasters import PLACE, labels_in, noise, predicted, write_tif

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


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


def test_without_rasterio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    monkeypatch.setattr("segdistill.datasets.reading.rasters.has_rasterio", lambda: False)
    with pytest.raises(UserError, match=r"a.tif needs the package rasterio: pip install 'segdistill\[geo\]'"):
        predict_files(predictor(), tmp_path / "a.tif", tmp_path / "out.tif")
