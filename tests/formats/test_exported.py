"""Prediction with exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from segdistill.cli.main import main
from segdistill.errors import UserError
from segdistill.exporting.export import export
from segdistill.formats.about import About
from segdistill.formats.exported import ExportedModel
from segdistill.prediction.job import Options
from segdistill.prediction.predict import predict, predict_files
from segdistill.prediction.predictor import open_predictor
from tests.formats.any_size import SUFFIXES
from tests.formats.photos import labels_in, photo
from tests.prediction.networks import BUILDER, saved
from tests.training.runs import train_tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in net/ and its files net.onnx, net.xml, net.pt2; not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    run = saved(folder / "net", BUILDER + "build_padded")
    for name, suffix in SUFFIXES.items():
        export(run=run, format=name, output=folder / f"net{suffix}", quiet=True)
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_a_file_predicts_what_its_run_predicts(files: Path, tmp_path: Path, suffix: str) -> None:
    """On an image of several windows, blended, of a size that nothing divides."""
    image = photo(tmp_path / "photo.png", 217, 301)
    truth, found = tmp_path / "run.png", tmp_path / "file.png"
    predict(model=files / "net", input=str(image), output=truth, window=128, device="cpu", quiet=True)
    predict(model=files / f"net{suffix}", input=str(image), output=found, window=128, quiet=True)
    assert len(np.unique(labels_in(truth))) > 1
    assert (labels_in(found) == labels_in(truth)).mean() >= 0.999
    assert Image.open(found).getpalette() == Image.open(truth).getpalette()


@pytest.mark.parametrize(("format", "layout"), [("onnx", "nhwc"), ("openvino", "nchw"), ("torch-export", "nhwc")])
def test_a_file_of_fixed_size_and_batch(files: Path, tmp_path: Path, format: str, layout: str) -> None:
    """Its windows are of its size, or padded to it; the batch is filled."""
    file = tmp_path / f"net{SUFFIXES[format]}"
    size, batch = (96, 128), 3
    export(
        run=files / "net", format=format, output=file, size=list(size), batch=batch, layout=layout,
        outputs="probabilities", quiet=True,
    )  # fmt: skip
    model = open_predictor(file)
    assert (model.model.tiling.window, model.model.batch_size) == (96, 3)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=generator)
    network = open_predictor(files / "net", "cpu")
    with torch.no_grad():
        torch.testing.assert_close(model.model.scorer(whole), network.model.scorer(whole), rtol=0, atol=1e-4)
        assert model.model.scorer(whole[..., :50, :70]).shape == (4, 5, 50, 70)
    image = photo(tmp_path / "photo.png", 217, 301)
    predict_files(model, image, tmp_path / "file.png")
    predict_files(network, image, tmp_path / "run.png", options=Options(window=96))
    # Padded windows at the image's edge see another surrounding than the run's, which are shorter.
    assert (labels_in(tmp_path / "file.png") == labels_in(tmp_path / "run.png")).mean() >= 0.97
    with pytest.raises(UserError, match=r"112 x 128 pixels is too large for .*net.*; choose --window 96 or less"):
        predict_files(model, image, tmp_path / "large.png", options=Options(window=128))


def test_a_file_knows_what_its_run_knew(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", epochs=1).path
    file = export(run=run, format="torch-export", quiet=True).path
    of_run, of_file = open_predictor(run, "cpu"), open_predictor(file)
    for name in ("in_channels", "classes", "palette", "bands"):
        assert getattr(of_file, name) == getattr(of_run, name), name
    assert of_file.model.tiling == of_run.model.tiling
    assert of_file.model.batch_size is None
    assert of_file.identity != of_run.identity


def test_float_images_of_many_bands(tmp_path: Path) -> None:
    run = saved(tmp_path / "net", BUILDER + "build_any", in_channels=4)
    file = export(run=run, format="torch-export", quiet=True).path
    of_run, of_file = open_predictor(run, "cpu"), open_predictor(file)
    assert of_file.description == of_run.description
    images = torch.rand(2, 4, 40, 50, generator=torch.Generator().manual_seed(0))
    for given in (images, (255 * images).to(torch.uint8)):
        with torch.no_grad():
            torch.testing.assert_close(of_file.model.scorer(given), of_run.model.scorer(given), rtol=0, atol=1e-4)


def test_floating_images_for_a_file_of_8_bits(files: Path) -> None:
    with pytest.raises(UserError, match=r"net.pt2 takes images of 8 bits"):
        ExportedModel(files / "net.pt2")(torch.rand(1, 3, 32, 32))


# ------------------------------------------------------------------------------------------------ bad input


def fails(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one sentence."""
    image = photo(tmp_path / "photo.png", 40, 50)
    assert main(["predict", str(model), str(image), "-o", str(tmp_path / "out.png"), *options]) == 2
    told = capsys.readouterr().err
    assert told.startswith("segdistill: ")
    assert told.count("\n") == 1
    assert "Traceback" not in told
    assert not (tmp_path / "out.png").exists()
    return told


@pytest.mark.parametrize("suffix", SUFFIXES.values())
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80" * 5000])
def test_not_a_model(suffix: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"net{suffix}"
    file.write_bytes(content)
    (tmp_path / "net.bin").touch()
    told = fails(file, tmp_path, capsys)
    assert f"model {file} cannot be read, it is damaged or no {suffix} model: " in told
    assert "Exception from" not in told  # a place in OpenVINO's source


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_half_a_model(files: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"net{suffix}"
    whole = (files / file.name).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "net.bin").touch()
    assert f"model {file} cannot be read, it is damaged or no {suffix} model: " in fails(file, tmp_path, capsys)


def test_other_files(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.pth").touch()
    told = fails(tmp_path / "net.pth", tmp_path, capsys)
    assert "net.pth is a file that ends in '.pth'; expected the folder of a run, or an exported file, .onnx" in told
    assert "model 'nowhere.onnx' does not exist" in fails(Path("nowhere.onnx"), tmp_path, capsys)
    (tmp_path / "net.xml").write_bytes((files / "net.xml").read_bytes())  # without its .bin
    assert "net.xml lacks its weights: net.bin is not beside it" in fails(tmp_path / "net.xml", tmp_path, capsys)
    assert "device is cuda, but" in fails(files / "net.pt2", tmp_path, capsys, "--device", "cuda")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": "2", "segdistill": '"9.9.9"'}, "has format 2 of segdistill 9.9.9, newer than 1, which this one ("),
        ({"classes": '["a", "b'}, 'the metadata of model {}: classes is \'["a", "b\', expected a list of names'),
        ({"images": "[]"}, "is damaged or old ("),
        ({"palette": "[[0, 0, 0]]"}, ": palette has 1 entries, expected 5"),
        ({"images": None}, "is damaged or old ('images' is missing); export it again"),
        ({"stride": "0"}, "the metadata of model {}: stride is 0, expected a whole number of at least 1"),
        ({"stride": None}, "the metadata of model {} lacks stride; expected spec, classes, palette, in_channels"),
        ({"segdistill": None}, "does not name its classes; expected a file made by segdistill export"),
    ],
)
def test_metadata_that_cannot_be_used(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str | None], told: str
) -> None:
    model = onnx.load(files / "net.onnx")
    values = {entry.key: entry.value for entry in model.metadata_props} | changed
    del model.metadata_props[:]
    for key, value in values.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    file = tmp_path / "net.onnx"
    onnx.save(model, file)
    assert told.format(file) in fails(file, tmp_path, capsys)


def test_openvino_file_of_another_origin(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import openvino

    model = openvino.Core().read_model(files / "net.onnx")
    openvino.save_model(model, tmp_path / "other.xml")
    assert "other.xml does not name its classes" in fails(tmp_path / "other.xml", tmp_path, capsys)


def test_about_comes_back(files: Path) -> None:
    about = ExportedModel(files / "net.onnx").about
    again = About.from_metadata(about.as_metadata(), "net.onnx")
    assert again == about
    spoilt: dict[str, Any] = json.loads(about.as_metadata()["images"]) | {"layout": "chw"}
    with pytest.raises(UserError, match="'chw' is none of nchw, nhwc"):
        About.from_metadata(about.as_metadata() | {"images": json.dumps(spoilt)}, "net.onnx")


def test_facts_of_other_programs_are_left_alone(files: Path, tmp_path: Path) -> None:
    model = onnx.load(files / "net.onnx")
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    onnx.save(model, tmp_path / "net.onnx")
    assert ExportedModel(tmp_path / "net.onnx").about == ExportedModel(files / "net.onnx").about
