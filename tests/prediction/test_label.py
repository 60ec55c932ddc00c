from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill.cli.main import main
from segdistill.data.describing import describe_network
from segdistill.data.scoring import TiledModel
from segdistill.datasets import Folder
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.errors import UserError
from segdistill.exporting.export import export
from segdistill.files import read_yaml, write_yaml
from segdistill.prediction import label as label_module
from segdistill.prediction.predictor import Predictor
from segdistill.recipe.data import build_split
from tests.prediction.pointwise import CLASSES, PALETTE, Counted, predictor
from tests.prediction.pointwise import scores as pointwise
from tests.training.runs import SCENES, STUDENT

SURE = 0.55


def photo(path: Path, height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    """A photograph of noise; its pixels (H, W, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def probabilities(first_band: np.ndarray) -> np.ndarray:
    """Of the three classes of `pointwise`, (3, H, W)."""
    place = first_band.astype(np.float64) / 127.5
    raw = np.exp(-((place - np.arange(3).reshape(3, 1, 1)) ** 2))
    found: np.ndarray = raw / raw.sum(0)
    return found


def expected_labels(first_band: np.ndarray, confidence: float) -> np.ndarray:
    found = probabilities(first_band)
    return np.where(found.max(0) < confidence, IGNORE_INDEX, found.argmax(0)).astype(np.uint8)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the model that `label` uses, whatever it is called with."""

    def set_model(made: Predictor | None = None) -> None:
        monkeypatch.setattr(label_module, "open_predictor", lambda *_: predictor() if made is None else made)

    set_model()
    return set_model


def label(images: Any, output: Path, **options: Any) -> label_module.Labelled:
    return segdistill.label(".", images, output=output, **{"confidence": SURE, "quiet": True, **options})


def data_set(made: label_module.Labelled) -> Folder:
    dataset = build_split({"train": made.data}, "train")
    assert isinstance(dataset, Folder)
    return dataset


# ------------------------------------------------------------------------------------------------ pictures


def test_names_that_no_list_can_hold(tmp_path: Path, model: Callable[..., None]) -> None:
    """After all images were labelled, the list of them failed, or was one of files that are not there."""
    names = ["a\nb", " c ", os.fsdecode(b"d\xff"), "e"]
    for number, name in enumerate(names):
        photo(tmp_path / "photos" / f"{name}.png", seed=number)
    made = label(tmp_path / "photos", tmp_path / "labels")
    assert set(data_set(made).ids) == {"a_b", "c", "d_", "e"}
    shutil.move(tmp_path / "photos" / "e.png", tmp_path / "photos" / "a_b.png")
    with pytest.raises(UserError, match=r"would both become .*a_b.png; rename one of them"):
        label(tmp_path / "photos", tmp_path / "more")


@pytest.mark.parametrize("confidence", [0.0, 0.5, SURE, 1.0])
def test_pixels_below_the_confidence_are_ignored(tmp_path: Path, model: Callable[..., None], confidence: float) -> None:
    pixels = [photo(tmp_path / f"in/{name}.png", seed=seed) for seed, name in enumerate("ab")]
    made = label(tmp_path / "in", tmp_path / "out", confidence=confidence)
    dataset = data_set(made)
    assert dataset.ids == ("a", "b")
    assert dataset.classes == CLASSES
    for index, image in enumerate(pixels):
        found, labels = dataset[index]
        assert (found.permute(1, 2, 0).numpy() == image).all()
        assert (labels.numpy() == expected_labels(image[..., 0], confidence)).all()
    every = np.concatenate([image[..., 0] for image in pixels])
    assert list(made.predicted.values()) == [(expected_labels(every, 0.0) == k).sum() for k in range(3)]
    assert list(made.kept.values()) == [(expected_labels(every, confidence) == k).sum() for k in range(3)]
    assert made.images == 2
    assert (sum(made.kept.values()) < sum(made.predicted.values())) == (confidence >= 0.5)


def test_masks_are_in_the_classes_colours_and_ignored_pixels_black(tmp_path: Path, model: Callable[..., None]) -> None:
    photo(tmp_path / "in/a.png")
    label(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out/masks/a.png") as mask:
        assert mask.mode == "P"
        labels, colors = np.array(mask), np.array(mask.convert("RGB"))
    assert set(np.unique(labels)) == {0, 1, 2, IGNORE_INDEX}
    assert (colors[labels == IGNORE_INDEX] == 0).all()
    for number, color in enumerate(PALETTE):
        assert (colors[labels == number] == color).all()


def test_pixels_without_data_are_ignored_and_not_counted(tmp_path: Path, model: Callable[..., None]) -> None:
    photo(tmp_path / "in/a.png")
    with Image.open(tmp_path / "in/a.png") as image:
        alpha = np.full((40, 50), 255, dtype=np.uint8)
        alpha[:, :20] = 0
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "in/a.png")
    made = label(tmp_path / "in", tmp_path / "out", confidence=0.0)
    assert sum(made.predicted.values()) == sum(made.kept.values()) == 40 * 30
    _, labels = data_set(made)[0]
    assert (labels[:, :20] == IGNORE_INDEX).all()
    assert (labels[:, 20:] < 3).all()


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_or_copied(tmp_path: Path, model: Callable[..., None], copy: bool) -> None:
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/sub/a.jpg")
    label(tmp_path / "in", tmp_path / "out", copy=copy)
    assert (tmp_path / "out/train.txt").read_text().split() == ["a", "sub-a"]
    made = sorted((tmp_path / "out/images").iterdir())
    assert [path.name for path in made] == ["a.png", "sub-a.jpg"]
    assert [path.is_symlink() for path in made] == [not copy] * 2
    assert made[1].read_bytes() == (tmp_path / "in/sub/a.jpg").read_bytes()
    # The other way round, over what is there.
    label(tmp_path / "in", tmp_path / "out", copy=not copy)
    assert [path.is_symlink() for path in sorted((tmp_path / "out/images").iterdir())] == [copy] * 2
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["a.png", "sub-a.jpg"]


def test_the_recipe_is_the_data_set(tmp_path: Path, model: Callable[..., None]) -> None:
    photo(tmp_path / "in/a.png")
    other = predictor(in_channels=1, bands=(2,), pixels=None)
    model(replace(other, model=replace(other.model, resize=(20, 30))))
    made = label(tmp_path / "in", tmp_path / "out")
    assert read_yaml(tmp_path / "out/recipe.yaml") == {"data": {"train": made.data}}
    assert made.data["bands"] == [2]
    assert made.data["resize"] == [20, 30]
    assert data_set(made)[0][0].shape == (1, 20, 30)


# ------------------------------------------------------------------------------------------------ going on


def test_a_killed_run_goes_on(tmp_path: Path, model: Callable[..., None]) -> None:
    for seed, name in enumerate("abcd"):
        photo(tmp_path / f"in/{name}.png", seed=seed)
    model(predictor(Counted(stop_after=2)))
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "in", tmp_path / "out")
    # Nothing trains on half of it.
    assert not (tmp_path / "out/train.txt").exists()
    with pytest.raises(UserError, match=r"out has no split 'train'|out/images does not exist"):
        Folder(tmp_path / "out", CLASSES)
    rest = Counted()
    model(predictor(rest))
    made = label(tmp_path / "in", tmp_path / "out")
    assert rest.windows == 2
    model(predictor())
    at_once = label(tmp_path / "in", tmp_path / "other")
    assert (made.images, made.predicted, made.kept) == (at_once.images, at_once.predicted, at_once.kept)
    for name in "abcd":
        assert (tmp_path / f"out/masks/{name}.png").read_bytes() == (tmp_path / f"other/masks/{name}.png").read_bytes()


def test_a_notebook_shows_how_much_of_each_class_was_kept() -> None:
    predicted, kept = {"<b>": 40, "sky": 0, "sea": 60}, {"<b>": 10, "sky": 0, "sea": 30}
    made = label_module.Labelled({}, 2, predicted, kept)
    page = made._repr_html_()
    assert "pixels of each class, 2 images" in page
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)
    assert cells[-12:] == [
        *("&lt;b&gt;", "25.0 %", "25.0 %"),
        *("sky", "0.0 %", "-"),
        *("sea", "75.0 %", "50.0 %"),
        *("all", "", "40.0 %"),
    ]


def test_new_images_are_taken_in_and_masks_changed_by_hand_are_kept(tmp_path: Path, model: Callable[..., None]) -> None:
    photo(tmp_path / "in/a.png")
    label(tmp_path / "in", tmp_path / "out")
    photo(tmp_path / "in/b.png", seed=1)
    assert label(tmp_path / "in", tmp_path / "out").images == 2
    mask = tmp_path / "out/masks/a.png"
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(mask)
    changed = mask.read_bytes()
    with pytest.raises(UserError, match=r"masks/a.png is there already, and was not made by this model from .*a.png"):
        label(tmp_path / "in", tmp_path / "out")
    assert mask.read_bytes() == changed
    label(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert mask.read_bytes() != changed


@pytest.mark.parametrize("change", [{"confidence": 0.5}, {"flips": "both"}])
def test_other_options_make_other_masks(tmp_path: Path, model: Callable[..., None], change: dict[str, Any]) -> None:
    photo(tmp_path / "in/a.png")
    label(tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="is there already, and was not made by this model"):
        label(tmp_path / "in", tmp_path / "out", **change)


def test_a_broken_image_does_not_stop_the_others(
    tmp_path: Path, model: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"1 of 2 images could not be labelled, see above; the others are in .*out"):
        label(tmp_path / "in", tmp_path / "out")
    assert "b.png cannot be read" in capsys.readouterr().err
    assert Folder(tmp_path / "out", CLASSES).ids == ("a",)


# ------------------------------------------------------------------------------------------------ rasters, videos


def test_rasters_have_masks_in_the_same_place(tmp_path: Path, model: Callable[..., None]) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 150, 170), dtype=np.uint8)
    profile = {"driver": "GTiff", "count": 2, "height": 150, "width": 170, "dtype": "uint8", "crs": "EPSG:32632"}
    (tmp_path / "in").mkdir()
    where = rasterio.transform.from_origin(5, 7, 0.5, 0.5)
    with rasterio.open(tmp_path / "in/map.tif", "w", **profile, transform=where) as file:
        file.write(pixels)
    (tmp_path / "in/map.tif.msk.note").write_text("beside it")
    counted = Counted(stop_after=4)
    model(predictor(counted, in_channels=2, bands=(2, 1)))
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "in", tmp_path / "out")
    counted.stop_after = None
    made = label(tmp_path / "in", tmp_path / "out")
    expected = expected_labels(pixels[1], SURE)
    image, labels = data_set(made)[0]
    assert (image.numpy() == pixels[::-1]).all()
    assert (labels.numpy() == expected).all()
    assert list(made.kept.values()) == [(expected == k).sum() for k in range(3)]
    assert sum(made.predicted.values()) == 150 * 170
    with rasterio.open(tmp_path / "out/masks/map.tif") as mask:
        assert mask.transform == where
    assert (tmp_path / "out/images/map.tif.msk.note").read_text() == "beside it"


def test_of_videos_every_so_many_frames_become_pictures(tmp_path: Path, model: Callable[..., None]) -> None:
    pytest.importorskip("av")
    from tests.prediction.test_video import film

    shown = film(tmp_path / "in/street.mkv", count=7)
    photo(tmp_path / "in/a.png")
    counted = Counted(stop_after=2)
    model(predictor(counted))
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "in", tmp_path / "out", frame_step=3)
    counted.stop_after = None
    made = label(tmp_path / "in", tmp_path / "out", frame_step=3)
    assert counted.windows == 4
    dataset = data_set(made)
    assert dataset.ids == ("a", "street-000000", "street-000003", "street-000006")
    for index, number in enumerate((0, 3, 6), start=1):
        image, labels = dataset[index]
        assert (image.permute(1, 2, 0).numpy() == shown[number]).all()
        assert (labels.numpy() == expected_labels(shown[number][..., 0], SURE)).all()
    assert sum(made.predicted.values()) == 40 * 50 + 3 * 21 * 33
    assert label(tmp_path / "in", tmp_path / "out", frame_step=3) == made
    assert counted.windows == 4
    with pytest.raises(UserError, match=r"street.json is there already"):
        label(tmp_path / "in", tmp_path / "out", frame_step=2)


def test_videos_of_one_name_in_two_folders(tmp_path: Path, model: Callable[..., None]) -> None:
    pytest.importorskip("av")
    from tests.prediction.test_video import film

    shown = {place: film(tmp_path / f"in/{place}/street.mkv", count=1, seed=seed) for seed, place in enumerate("ab")}
    model(predictor())
    dataset = data_set(label(tmp_path / "in", tmp_path / "out"))
    assert dataset.ids == ("a-street-000000", "b-street-000000")
    for (image, _), place in zip((dataset[0], dataset[1]), "ab", strict=True):
        assert (image.permute(1, 2, 0).numpy() == shown[place][0]).all()
    photo(tmp_path / "in/a/street-000000.png")
    with pytest.raises(UserError, match=r"street-000000.png has the name of a frame of .*a/street.mkv"):
        label(tmp_path / "in", tmp_path / "out", overwrite=True)


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("spoil", "options", "told"),
    [
        (lambda place: shutil.rmtree(place / "in"), {}, r"in does not exist"),
        (lambda place: (place / "in/a.png").unlink(), {}, r"in holds no image; expected files ending in .png"),
        (lambda place: (place / "out").write_text(""), {}, r"out is a file; expected a folder for the data set"),
        (lambda place: photo(place / "out/x.png"), {}, r"out is not empty, and segdistill label did not make it"),
        (lambda place: photo(place / "in/a.jpg"), {}, r"would both become .*a.png; rename one of them"),
        (lambda place: photo(place / "in/a.tif"), {}, r"a.png and .*a.tif would both become a; rename one of them"),
        (lambda _: None, {"confidence": 1.01}, r"confidence is 1.01, expected a probability from 0 to 1"),
        (lambda _: None, {"confidence": -0.1}, r"confidence is -0.1, expected a probability from 0 to 1"),
        (lambda _: None, {"confidence": float("nan")}, r"confidence is nan, expected a probability from 0 to 1"),
        (lambda _: None, {"frame_step": 0}, r"frame_step is 0, expected at least 1"),
        (lambda _: None, {"output": ""}, r"output is empty; expected a folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path, model: Callable[..., None], spoil: Callable[[Path], object], options: dict[str, Any], told: str
) -> None:
    photo(tmp_path / "in/a.png")
    spoil(tmp_path)
    with pytest.raises(UserError, match=told) as error:
        label(tmp_path / "in", **{"output": tmp_path / "out", **options})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out/masks").exists()


def test_too_many_classes(tmp_path: Path, model: Callable[..., None]) -> None:
    photo(tmp_path / "in/a.png")
    many = tuple(f"class {number}" for number in range(255))
    described = replace(predictor().description, classes=many, palette=((0, 0, 0),) * 255)
    model(Predictor(TiledModel(pointwise, 255), described, "many"))
    with pytest.raises(UserError, match="the model has 255 classes; a data set has at most 254"):
        label(tmp_path / "in", tmp_path / "out")


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("label") / "run"
    torch.manual_seed(0)
    network = segdistill.load_network(STUDENT, num_classes=6)
    describe_network(network, build_split(SCENES, "val"))
    network.save(folder)
    write_yaml(folder / "config.yaml", {"data": SCENES, "network": STUDENT})
    (folder / "metrics.json").write_text("{}")
    return folder


def test_label_and_train_on_the_result(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        photo(tmp_path / f"photos/{name}.png", 64, 64, seed=seed)
    assert main(["label", str(finished), "photos", "-o", "pseudo", "--confidence", "0.18", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "pseudo: 2 images, " in told
    assert "of the pixels labelled" in told
    assert "pixels kept" in told
    assert "segdistill train pseudo/recipe.yaml" in told
    validation = "--data.val={dataset: synthetic-aerial, split: val, count: 1, size: [64, 64]}"
    trained = ["train", "pseudo/recipe.yaml", "--network", STUDENT, validation, "--output", "run", "--quiet"]
    assert main([*trained, "--train.epochs", "1", "--train.batch_size", "2", "--train.workers", "0"]) == 0
    assert "miou" in (tmp_path / "run/metrics.json").read_text()


def test_any_model_that_predicts_labels(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pixels = torch.from_numpy(photo(tmp_path / "in/a.png", 64, 64)).permute(2, 0, 1)
    with torch.inference_mode():
        half = segdistill.load_run(finished)(pixels[None]).softmax(1).max(1).values.median()
    file = export(finished, output=tmp_path / "model.onnx", quiet=True).path
    options = {"confidence": float(half), "quiet": True, "device": "cpu"}
    made = segdistill.label(finished, tmp_path / "in", output=tmp_path / "run", **options)
    exported = segdistill.label(file, tmp_path / "in", output=tmp_path / "onnx", **options)
    assert exported.kept.keys() == made.kept.keys()
    differing = data_set(made)[0][1] != data_set(exported)[0][1]
    assert differing.float().mean() < 0.01
    assert 0 < sum(made.kept.values()) < 64 * 64


def test_nothing_is_written_where_the_model_is_none(tmp_path: Path) -> None:
    photo(tmp_path / "in/a.png")
    with pytest.raises(UserError, match="does not exist"):
        segdistill.label(tmp_path / "nowhere", tmp_path / "in", output=tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]
