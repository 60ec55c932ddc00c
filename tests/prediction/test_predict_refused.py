"""Input, output and options that cannot be, each told of in one sentence."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from segdistill.data.scoring import TiledModel
from segdistill.errors import UserError
from segdistill.networks.description import Description
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict_files
from segdistill.prediction.predictor import Predictor
from tests.prediction.pictures import photo
from tests.prediction.pointwise import Counted, predictor


@pytest.mark.parametrize(
    ("given", "output", "told"),
    [
        ([], "out", "input names no file"),
        ("nowhere", "out", "nowhere does not exist"),
        ("*.gif", "out", r"no file matches .*\*.gif"),
        ("notes.txt", "out", r"notes.txt ends in '.txt'; expected an image or a video ending in .png"),
        ("a.png", "out.jpg", r"out.jpg ends in '.jpg'; expected .png for the label map of a.png, or a folder"),
        ("a.png", "out.tif", r"out.tif ends in '.tif'; expected .png"),
        ("*.*g", "notes.txt", r"notes.txt is a file; expected a folder for the label maps of 2 images"),
        ("a.png", "a.png", "a.png would replace an image; choose another output"),
        (".", ".", "a.png would replace an image; choose another output"),
        ("**/a.*", "out", r"a.png and sub/a.jpg would both become out/a.png; rename one of them"),
        ("a.png", "notes.txt/out.png", r"cannot write .*notes.txt/out.png: one of its folders is a file"),
    ],
)
def test_input_and_output_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, output: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(Path("a.png"))
    photo(Path("b.png"))
    Path("notes.txt").write_text("hello")
    if "**" in given:
        photo(Path("sub/a.jpg"))
    with pytest.raises(UserError, match=told):
        predict_files(predictor(), given, Path(output))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Options(window=3), "window is 3; expected at least 4 pixels for a model of stride 1"),
        (Options(overlap=0.4), "overlap is 0.4; expected a share of the window's side from 0 to 1/3"),
        (Options(overlap=-0.1), "overlap is -0.1; expected"),
        (Options(batch_size=0), "batch_size is 0, expected at least 1"),
        (Options(bands=()), r"bands is \[\]; expected numbers of bands, the first being 1"),
        (Options(bands=(0, 1, 2)), r"bands is \[0, 1, 2\]; expected"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: Options, told: str) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=told):
        predict_files(predictor(), tmp_path / "a.png", tmp_path / "out", options=options)


def test_what_is_for_geotiffs_alone_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for name in ("probabilities", "vector"):
        with pytest.raises(UserError, match=f"{name} is for GeoTIFFs, and there is none .*; leave --{name} out"):
            predict_files(predictor(), tmp_path / "a.png", tmp_path / "out", wanted=Wanted(**{name: True}))


def test_an_overlay_that_is_an_image_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/a-overlay.png")
    with pytest.raises(UserError, match=r"a-overlay.png, a file beside the label map of \S*a.png, is also an image"):
        predict_files(predictor(), tmp_path / "in", tmp_path / "out", wanted=Wanted(overlay=True))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 300, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*out.png: File too large"):
            predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_more_classes_than_a_byte_has_room_for() -> None:
    names = tuple(f"class {number}" for number in range(256))
    with pytest.raises(UserError, match="the model has 256 classes; label maps of 8 bits have room for 255"):
        Predictor(TiledModel(Counted(), 256), Description(None, names, ((0, 0, 0),) * 256, 3), "many")
