"""What predicts: runs, saved networks, networks wrapped by hand; here or on a cluster."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import segdistill
from segdistill.cluster import spread
from segdistill.data.describing import describe_network
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Tiling
from segdistill.errors import UserError
from segdistill.exporting.export import export
from segdistill.files import write_yaml
from segdistill.networks.description import Description
from segdistill.prediction.predict import predict, predict_files
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.recipe.data import build_split
from tests.prediction.pictures import labels_in, photo
from tests.prediction.pointwise import CLASSES, PALETTE, predictor
from tests.tiny import tiny_network
from tests.training.runs import SCENES, STUDENT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    torch.manual_seed(0)
    network = segdistill.load_network(STUDENT, num_classes=6)
    describe_network(network, build_split(SCENES, "val"))
    network.save(folder)
    write_yaml(folder / "config.yaml", {"data": SCENES, "network": STUDENT})
    (folder / "metrics.json").write_text("{}")
    return folder


def test_a_run_predicts_what_its_network_says(tmp_path: Path, finished: Path) -> None:
    pixels = photo(tmp_path / "a.png", 60, 75)
    assert predict(model=finished, input=tmp_path / "a.png", output=tmp_path / "out.png", device="cpu", quiet=True)
    network = segdistill.load_run(finished)
    with torch.no_grad():
        scores = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert (labels_in(tmp_path / "out.png") == scores.argmax(1)[0].numpy()).all()


def test_a_large_picture_is_predicted_as_the_whole_but_at_the_rims_of_windows(tmp_path: Path, finished: Path) -> None:
    """The tiny network sees about 60 pixels around: what differs at all differs by chance of near ties."""
    pixels = photo(tmp_path / "a.png", 300, 420)
    predict(model=finished, input=tmp_path / "a.png", output=tmp_path / "out.png", window=256, overlap=0.25, quiet=True)
    with torch.no_grad():
        whole = segdistill.load_run(finished)(torch.from_numpy(pixels).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    assert (labels_in(tmp_path / "out.png") == whole).mean() > 0.99


def test_a_runs_classes_and_colours(finished: Path) -> None:
    found = open_predictor(finished, "cpu")
    assert found.classes == ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
    assert found.palette[1] == (0, 0, 255)
    assert (found.in_channels, found.model.tiling, found.bands, found.description.pixels) == (
        3,
        Tiling(stride=8),
        None,
        "uint8",
    )


def test_a_saved_network_tells_its_classes_colours_bands_and_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = segdistill.load_network(STUDENT, num_classes=3, in_channels=2)
    network.save(tmp_path)
    plain = open_predictor(tmp_path, "cpu")
    assert plain.classes == ("class 0", "class 1", "class 2")
    assert len(set(plain.palette)) == 3
    assert (plain.in_channels, plain.model.tiling.window, plain.bands, plain.description.pixels) == (
        2,
        None,
        None,
        None,
    )
    network.description = replace(
        network.description,
        classes=("road", "roof", "tree"),
        palette=((1, 2, 3), (255, 0, 0), (0, 255, 0)),
        bands=(4, 2),
        window=512,
        pixels="uint8",
    )
    network.save(tmp_path)
    told = open_predictor(tmp_path, "cpu")
    assert told.classes == ("road", "roof", "tree")
    assert told.palette == ((1, 2, 3), (255, 0, 0), (0, 255, 0))
    assert (told.model.tiling.window, told.bands, told.description.pixels) == (512, (4, 2), "uint8")
    segdistill.load_network(STUDENT, num_classes=3, in_channels=2).save(tmp_path)
    assert open_predictor(tmp_path, "cpu").identity != plain.identity


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (shutil.rmtree, "model .* does not exist"),
        (
            lambda run: (shutil.rmtree(run), run.write_text("")),
            "is a file that ends in ''; expected the folder of a run",
        ),
        (lambda run: (run / "network.json").unlink(), "holds no saved network: network.json is missing"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x"), "is damaged or truncated"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, finished: Path, damage: Callable[[Path], object], told: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run)
    photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=told):
        predict(model=run, input=tmp_path / "a.png", output=tmp_path / "out.png", quiet=True)


def test_a_model_of_other_bands_than_rgb_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png has 3 bands, but the model takes 4$"):
        predict_files(predictor(in_channels=4), tmp_path / "a.png", tmp_path / "out.png")


def test_a_network_wrapped_by_hand_fits(tmp_path: Path) -> None:
    """Any callable does: here a `Network` that no folder could bring back."""
    network = tiny_network(classes=3).eval()
    pixels = photo(tmp_path / "a.png")
    described = Description(None, CLASSES, PALETTE, 3)
    own = Predictor(TiledModel.of(network), described, "mine")
    predict_files(own, tmp_path / "a.png", tmp_path / "out.png")
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    assert (labels_in(tmp_path / "out.png") == expected).all()


def test_a_picture_too_small_for_the_network_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its normalisation has one number per group at 32 x 32 pixels, to which all smaller ones are padded."""
    narrow = "smp:FPN:resnet18?decoder_pyramid_channels=32&decoder_segmentation_channels=32"
    segdistill.load_network(narrow, num_classes=3).save(tmp_path / "net")
    photo(tmp_path / "photos" / "dot.png", 1, 1)
    photo(tmp_path / "photos" / "whole.png", 64, 64)
    with pytest.raises(UserError, match="1 of 2 images could not be predicted"):
        predict(model=tmp_path / "net", input=str(tmp_path / "photos"), output=tmp_path / "out")
    assert "dot.png: the model cannot take 1 x 1 pixels: too few for its normalisation" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole.png"]


@pytest.mark.slow
def test_on_ray(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes make what one makes; a broken image is told of and stops no other."""
    ray = pytest.importorskip("ray")
    for number in range(5):
        photo(tmp_path / "photos" / f"{number}.png", seed=number)
    expected = predict(model=finished, input=[str(tmp_path / "photos")], output=tmp_path / "here", quiet=True)
    (tmp_path / "photos" / "broken.png").write_text("no image")
    options: dict[str, Any] = {"model": finished, "input": [str(tmp_path / "photos")], "output": tmp_path / "there"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with pytest.raises(UserError, match="1 of 6 images could not be predicted, see above"):
            predict(**options, executor="ray")
        with pytest.raises(UserError, match="one image takes 3 CPUs, but the Ray cluster has 2 in all"):
            predict(**options, executor="ray", cpus_per_image=3)
        with pytest.raises(ZeroDivisionError):
            list(spread((1).__truediv__, [0], what="number", cpus=1, gpus=0))
        [(_, ended)] = spread(signal.raise_signal, [signal.SIGKILL], what="signal", cpus=1, gpus=0)
        assert isinstance(ended, RuntimeError)
        assert str(ended).startswith("its process ended (")
    finally:
        ray.shutdown()
    assert "broken.png" in capsys.readouterr().err
    for path in expected:
        assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cpus_per_image": 0}, "cpus_per_image is 0, expected at least 1"),
        ({"gpus_per_image": -1.0}, r"gpus_per_image is -1\.0, expected 0 or more"),
    ],
)
def test_shares_of_a_cluster(finished: Path, tmp_path: Path, options: dict[str, Any], told: str) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=told):
        predict(model=finished, input=str(tmp_path / "a.png"), output=tmp_path / "out", executor="ray", **options)


def test_what_a_user_should_know_of_the_labels(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    card = json.loads((run / "network.json").read_text())
    (run / "network.json").write_text(json.dumps(card | {"resize": [96, 128]}))
    photo(tmp_path / "a.png")
    predict(model=run, input=tmp_path / "a.png", output=tmp_path / "a-labels.png", device="cpu", resize="none")
    assert "note: the model was validated on images resized to 96 x 128; these go through it at their own size" in (
        capsys.readouterr().err
    )
    file = export(run=run, size="64x80", images=tmp_path / "a.png", quiet=True).path
    predict(model=file, input=tmp_path / "a.png", output=tmp_path / "b-labels.png")
    assert "note: model.onnx takes 64 x 80 pixels at once" in capsys.readouterr().err
    predict(model=finished, input=tmp_path / "a.png", output=tmp_path / "c-labels.png", device="cpu")
    assert "note:" not in capsys.readouterr().err
