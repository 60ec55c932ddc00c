from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill.cluster import spread
from segdistill.data.describing import describe_network
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Tiling
from segdistill.datasets.reading.images import read_rgb
from segdistill.errors import UserError
from segdistill.exporting.export import export
from segdistill.files import write_yaml
from segdistill.networks.description import Description
from segdistill.prediction.images_in import find_items
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict, predict_files
from segdistill.prediction.predictor import Predictor, open_predictor
from segdistill.recipe.data import build_split
from tests.prediction.pointwise import CLASSES, PALETTE, Counted, labels_of, predictor
from tests.tiny import tiny_network
from tests.training.runs import SCENES, STUDENT


def photo(path: Path, height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    """A photograph of noise; its pixels (H, W, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def labels_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    torch.manual_seed(0)
    network = segdistill.load_network(STUDENT, num_classes=6)
    describe_network(network, build_split(SCENES, "val"))
    network.save(folder)
    write_yaml(folder / "config.yaml", {"data": SCENES, "network": STUDENT})
    return folder


# ------------------------------------------------------------------------------------------------ one picture


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (64, 64), (150, 201)])
def test_a_picture_becomes_class_indices_with_the_classes_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = photo(tmp_path / "a.png", *size)
    assert predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png") == [tmp_path / "out.png"]
    assert (labels_in(tmp_path / "out.png") == labels_of(pixels[..., 0])).all()
    with Image.open(tmp_path / "out.png") as image:
        colors = np.array(image.convert("RGB"))
        assert image.info["classes"] == "dark, grey, bright"
    assert (colors == np.array(PALETTE)[labels_of(pixels[..., 0])]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.png"]


def test_pixels_without_data_are_255_however_few_classes_there_are(tmp_path: Path) -> None:
    pixels = np.dstack([photo(tmp_path / "a.png"), np.full((40, 50), 255, dtype=np.uint8)])
    pixels[:20, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    found = labels_in(tmp_path / "out.png")
    assert (found[:20] == 255).all()
    assert (found[20:] == labels_of(pixels[20:, :, 0])).all()


def test_the_overlay_is_half_colour_half_photograph(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png")
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out", wanted=Wanted(overlay=True))
    mixed = np.array(Image.open(tmp_path / "out/a-overlay.png")).astype(float)
    expected = (pixels.astype(float) + np.array(PALETTE)[labels_of(pixels[..., 0])]) / 2
    assert np.abs(mixed - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_8_bits_are_read_as_in_training(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    predict_files(predictor(), path, tmp_path / "out.png")
    assert (labels_in(tmp_path / "out.png") == labels_of(read_rgb(path)[0].numpy())).all()


def test_bands_are_read_from_pictures_of_any_depth(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 256, (100, 90)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    seen: list[torch.dtype] = []

    def scoring(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.dtype)
        return Counted()(images)

    one_band = predictor(scoring, in_channels=1, bands=(1,), pixels=None)
    predict_files(one_band, tmp_path / "deep.png", tmp_path / "out.png")
    assert (labels_in(tmp_path / "out.png") == labels_of(deep)).all()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.write_bytes(b""), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.write_text("hello"), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.unlink(), "a.png does not exist"),
        (
            lambda path: Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(path),
            r"a.png has pixels of the kind I.*; expected 8 bits per channel",
        ),
        (lambda path: path.rename(path.with_name("b.txt")), "a.png does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "a.png holds no image; expected files ending in .png"),
    ],
)
def test_a_bad_picture_is_told_in_one_sentence(tmp_path: Path, spoil: Callable[[Path], object], told: str) -> None:
    photo(tmp_path / "a.png")
    spoil(tmp_path / "a.png")
    with pytest.raises(UserError, match=told) as error:
        predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.png").exists()


def test_a_picture_too_large_for_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(UserError, match=r"a.png is too large to be read at once, cut it up or make it a tiled GeoTIFF"):
        predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1900)  # PIL would warn
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")


# ------------------------------------------------------------------------------------------------ many pictures


def test_a_folder_keeps_its_folders_and_is_not_done_twice(tmp_path: Path) -> None:
    for name in ("a.png", "sub/a.jpg", "sub/b.bmp"):
        photo(tmp_path / "in" / name)
    photo(tmp_path / "in/.thumbnails/a.png")
    (tmp_path / "in/notes.txt").write_text("hello")
    out = tmp_path / "in/labels"
    expected = [out / "a.png", out / "sub/a.png", out / "sub/b.png"]
    first = Counted()
    assert predict_files(predictor(first), tmp_path / "in", out) == expected
    assert first.windows == 3
    assert sorted(path for path in out.rglob("*") if path.is_file()) == expected
    again = Counted()
    assert predict_files(predictor(again), tmp_path / "in", out) == expected
    assert again.windows == 0
    photo(tmp_path / "in/c.png")
    predict_files(predictor(again), tmp_path / "in", out)
    assert again.windows == 1
    predict_files(predictor(again), tmp_path / "in", out, wanted=Wanted(overlay=True))
    assert again.windows == 5
    assert len(list(out.rglob("*-overlay.png"))) == 4


@pytest.mark.parametrize("pattern", ["*.png", "**/*.png", "[ab].png"])
def test_patterns_and_lists(tmp_path: Path, pattern: str) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        photo(tmp_path / "in" / name)
    found = predict_files(predictor(), str(tmp_path / "in" / pattern), tmp_path / "out")
    assert found == [tmp_path / "out/a.png", tmp_path / "out/b.png"]
    both = predict_files(predictor(), [tmp_path / "in/c.jpg", tmp_path / "in/a.png"], tmp_path / "out")
    assert both == [tmp_path / "out/c.png", tmp_path / "out/a.png"]


def test_a_broken_picture_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        photo(tmp_path / f"in/{name}.png")
    for name in "bd":
        (tmp_path / f"in/{name}.png").write_bytes(b"hello")
    with pytest.raises(UserError, match="2 of 4 images could not be predicted, see above"):
        predict_files(predictor(), tmp_path / "in", tmp_path / "out")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "b.png cannot be read, it is truncated or no image" in told[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    photo(tmp_path / "in/b.png")
    (tmp_path / "in/d.png").unlink()
    rest = Counted()
    predict_files(predictor(rest), tmp_path / "in", tmp_path / "out")
    assert rest.windows == 1


@pytest.mark.parametrize("given", ["in", "in/**/*.png"])
def test_linked_folders_are_followed_and_none_without_end(tmp_path: Path, given: str) -> None:
    for place in ("in/a.png", "elsewhere/deep/b.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        photo(tmp_path / place)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "in")
    items = find_items(str(tmp_path / given), tmp_path / "out")
    assert [item.path for item in items] == [tmp_path / "in/a.png", tmp_path / "in/linked/deep/b.png"]
    assert len(predict_files(predictor(), str(tmp_path / given), tmp_path / "out")) == 2


def test_an_interrupted_folder_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = [photo(tmp_path / f"in/{number}.png", seed=number) for number in range(6)]
    stopped, rest = Counted(stop_after=4), Counted()
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(stopped), tmp_path / "in", tmp_path / "out", quiet=False)
    assert "what is finished is kept; the same command continues from there" in capsys.readouterr().err
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept == ["0.png", "1.png", "2.png", "3.png"]
    predict_files(predictor(rest), tmp_path / "in", tmp_path / "out", quiet=False)
    assert "4 were there already" in capsys.readouterr().out
    assert rest.windows == 2
    for number in range(6):
        assert (labels_in(tmp_path / f"out/{number}.png") == labels_of(pixels[number][..., 0])).all()


@pytest.mark.parametrize("change", ["model", "image", "options", "foreign file"])
def test_what_was_made_otherwise_is_replaced_on_request_alone(tmp_path: Path, change: str) -> None:
    photo(tmp_path / "a.png")
    out = tmp_path / "out.png"
    predict_files(predictor(), tmp_path / "a.png", out)
    other, options = predictor(), Options()
    if change == "model":
        other = predictor(identity="another")
    elif change == "image":
        photo(tmp_path / "a.png", seed=1)
        os.utime(tmp_path / "a.png", ns=(1, 1))
    elif change == "options":
        options = Options(flips="both")
    else:
        photo(out)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"out.png is there already, and was not made by this model .* --overwrite"):
        predict_files(other, tmp_path / "a.png", out, options=options)
    assert out.read_bytes() == before
    predict_files(other, tmp_path / "a.png", out, options=options, wanted=Wanted(overwrite=True))
    assert out.read_bytes() != before
    count = Counted()
    same = predictor(count, identity=other.identity)
    predict_files(same, tmp_path / "a.png", out, options=options)
    assert count.windows == 0


# ------------------------------------------------------------------------------------------------ what cannot be


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
    with pytest.raises(UserError, match=r"a-overlay.png has two meanings"):
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


# ------------------------------------------------------------------------------------------------ models


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
    assert "note: the model was validated on images resized to 96 x 128; these go through it at the size that they" in (
        capsys.readouterr().err
    )
    file = export(run=run, size="64x80", images=tmp_path / "a.png", quiet=True).path
    predict(model=file, input=tmp_path / "a.png", output=tmp_path / "b-labels.png")
    assert "note: model.onnx sees 64 x 80 pixels at once" in capsys.readouterr().err
    predict(model=finished, input=tmp_path / "a.png", output=tmp_path / "c-labels.png", device="cpu")
    assert "note:" not in capsys.readouterr().err
