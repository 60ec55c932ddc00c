"""Runs with several teachers, and with teachers of other classes and other bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from segdistill import Network, RunFolder, UserError, load_run
from segdistill.recipe.data import build_data
from segdistill.recipe.recipes import DistillRecipe
from segdistill.recipe.teachers import GivenTeacher
from segdistill.training.loading import Images, load_teacher, teacher_for
from tests.datasets.trees import folder_tree
from tests.tiny import TinyModel
from tests.training.runs import SCENES, STUDENT, TEACHER, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, history_without_times, stop_in

FINE = "python:tests.training.test_several_teachers:build_fine"
OURS = ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
MAPPING: dict[Any, Any] = dict(enumerate([*OURS, OURS[0], "ignore"]))
"""Eight classes: those of the data, another kind of its first, and one that it does not have."""


def build_fine(num_classes: int, in_channels: int) -> Network:
    """Logits at stride 4, where those of the other teacher have stride 8."""
    stages = [f"layers.{index}" for index in range(4)]
    model = TinyModel(4, 4, num_classes, in_channels)
    return Network(model, stages=stages, embedding="head", logits="classifier", in_channels=in_channels)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of eight classes."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "eight.safetensors"
    save_file(build_fine(8, 3).model.state_dict(), file)
    return file


@pytest.fixture
def both(teacher: Path, weights: Path) -> dict[str, Any]:
    """A run, and a spec of eight classes, of other weight."""
    return {
        "teacher": {str(teacher): 1.0, FINE: 2.0},
        "teacher_weights": {FINE: str(weights)},
        "teacher_classes": {FINE: MAPPING},
    }


def distill(output: Path, given: dict[str, Any], **options: Any) -> RunFolder:
    return distill_tiny(output, **given, **{"method": "kd"} | options)


def losses(run: RunFolder) -> list[float]:
    return [float(row["loss/kd"]) for row in run.read_history()]


def test_the_mean_is_what_the_student_learns(both: dict[str, Any], teacher: Path, weights: Path) -> None:
    given: dict[str, Any] = {"data": SCENES, "student": STUDENT, **both}
    recipe = DistillRecipe.from_dict(given)
    data = build_data(SCENES)
    network = load_teacher(recipe, data).eval()
    images = torch.rand(1, 3, 32, 32)
    other = build_fine(8, 3).eval()
    other.load_weights(weights)
    eight = other(images).softmax(1)
    six = torch.cat([eight[:, :1] + eight[:, 6:7], eight[:, 1:6]], 1)
    expected = (load_run(teacher)(images).softmax(1) + 2 * six / six.sum(1, keepdim=True)) / 3
    torch.testing.assert_close(network(images).exp(), expected)
    assert network.description.classes == OURS


def test_live_and_cached_are_alike_and_resumed(
    tmp_path: Path, both: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = distill(tmp_path / "live", both, views=2)
    cached = distill(tmp_path / "cached", both, views=2, teacher_cache=tmp_path / "cache")
    # Half precision is all that a cache loses; what the student makes of it grows from step to step.
    assert losses(cached)[0] == pytest.approx(losses(live)[0], rel=1e-3)
    assert losses(cached) == pytest.approx(losses(live), rel=2e-2)
    metrics = cached.read_metrics()
    assert metrics is not None
    assert metrics["teacher_miou"] == (live.read_metrics() or {})["teacher_miou"]
    assert yaml.safe_load(cached.config_file.read_text())["teacher"] == both["teacher"]
    assert cached.report_file.exists()
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=1)
        with pytest.raises(Killed):
            distill(tmp_path / "killed", both, views=2, teacher_cache=tmp_path / "cache")
    # The cache holds all: no teacher is loaded again.
    monkeypatch.setattr("segdistill.training.distill.load_teacher", None)
    resumed = distill(tmp_path / "killed", both, views=2, teacher_cache=tmp_path / "cache", resume=True)
    assert history_without_times(resumed) == history_without_times(cached)
    assert fingerprint(resumed) == fingerprint(cached)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": ["A", FINE]},
        {"teacher_classes": {FINE: MAPPING | {7: OURS[1]}}},
        {"teacher_bands": {FINE: [3, 2, 1]}},
    ],
)
def test_a_cache_is_of_all_that_the_teachers_are(
    tmp_path: Path, both: dict[str, Any], teacher: Path, change: dict[str, Any]
) -> None:
    cache = {"teacher_cache": tmp_path / "cache", "views": 1, "epochs": 1}
    distill(tmp_path / "first", both, **cache)
    changed = both | change
    if isinstance(changed["teacher"], list):
        changed["teacher"] = [str(teacher), FINE]
    with pytest.raises(UserError, match=r"teacher was '.*', now '.*'; use another folder"):
        distill(tmp_path / "second", changed, **cache)


def test_networks_in_a_list(tmp_path: Path, teacher: Path) -> None:
    networks = [load_run(teacher), build_fine(6, 3)]
    run = distill(tmp_path / "run", {"teacher": networks}, epochs=1)
    assert yaml.safe_load(run.config_file.read_text())["teacher"] == [f"object:{TEACHER}", "object:TinyModel"]
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["teacher_miou"] is not None


def test_features_of_several_teachers(tmp_path: Path, both: dict[str, Any]) -> None:
    with pytest.raises(
        UserError,
        match=r"method drd compares features .*, but the teacher gives only class scores; methods for it are .*kd",
    ):
        distill(tmp_path / "run", both, method=["kd", "drd"])
    assert not (tmp_path / "run").exists()


def test_a_teacher_in_another_order_is_put_in_order(tmp_path: Path, teacher: Path) -> None:
    turned = load_run(teacher)
    turned.description = type(turned.description)(**turned.description.as_dict() | {"classes": OURS[::-1]})
    turned.save(tmp_path / "turned")
    told = r"teacher .*turned has the classes in another order than the data: .*; map them with teacher_classes: {cl"
    with pytest.raises(UserError, match=told):
        distill_tiny(tmp_path / "run", tmp_path / "turned")
    given: dict[str, Any] = {"data": SCENES, "student": STUDENT, "teacher": str(tmp_path / "turned")}
    recipe = DistillRecipe.from_dict({**given, "teacher_classes": {"car": "car"}})  # the others by their names
    images = torch.rand(1, 3, 32, 32)
    found = load_teacher(recipe, build_data(SCENES)).eval()(images)
    assert torch.equal(found, load_run(teacher)(images).flip(1))


def test_classes_that_do_not_map(tmp_path: Path, weights: Path) -> None:
    given = {"teacher": FINE, "teacher_weights": str(weights)}
    for mapping, told in (
        (MAPPING | {3: "treee"}, "unknown class of the data in teacher_classes: 'treee': did you mean 'tree'"),
        (MAPPING | {4: "ignore"}, f"gives nothing to 'car' of the data: expected at least one class of teacher {FINE}"),
        ({7: "ignore"}, f"teacher_classes lacks 7 classes of teacher {FINE}: class 0 \\(0\\), class 1"),
        ({"tree": "tree"}, "a network spec, have no names: number them from 0 to the last"),
    ):
        with pytest.raises(UserError, match=told):
            distill(tmp_path / "run", given | {"teacher_classes": mapping})
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------- other bands


@pytest.fixture(scope="module")
def rasters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Five bands of 16 bits, in the files' own unit, of scenes whose labels a band gives away."""
    rasterio = pytest.importorskip("rasterio")
    root = tmp_path_factory.mktemp("rasters")
    chance = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = chance.integers(0, 2, (4, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            bands = chance.normal(1000, 100, (5, 32, 32)) + 800.0 * labels * np.eye(5)[2][:, None, None]
            shape = {"width": 32, "height": 32, "count": 5, "dtype": "uint16", "driver": "GTiff"}
            place = rasterio.Affine.scale(2)
            with rasterio.open(root / "images" / split / f"{number}.tif", "w", transform=place, **shape) as file:
                file.write(bands.astype("uint16"))
            Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")
    return {"dataset": "folder", "root": str(root), "classes": ["field", "wood"], "crop": [32, 32]}


def test_a_teacher_of_three_bands_beside_a_student_of_five(tmp_path: Path, rasters: dict[str, Any]) -> None:
    """Each has its own normalisation; numbers are of the data's channels, not of the file's bands."""
    three = rasters | {"bands": [3, 2, 1]}
    five = rasters | {"bands": [5, 4, 3, 2, 1]}
    taught = train_tiny(tmp_path / "teacher", TEACHER, data=three, epochs=2)
    with pytest.raises(
        UserError,
        match=r"takes 3 channels, but the images of the data have 5; choose .* teacher_bands, such as \[1, 2, 3\]",
    ):
        distill_tiny(tmp_path / "run", taught.path, data=five)
    run = distill_tiny(
        tmp_path / "run", taught.path, data=five, teacher_bands=[3, 4, 5], epochs=1, method=["kd", "drd"]
    )
    teacher, student = load_run(taught.path), load_run(run.path)
    assert teacher.mean is not None
    assert student.mean is not None
    # Of their own training images each: the student's are those of bands.json.
    assert torch.allclose(student.mean.flatten()[2:], teacher.mean.flatten(), rtol=1e-3)
    assert (run.path / "bands.json").exists()
    assert (run.read_metrics() or {})["teacher_miou"] == pytest.approx((taught.read_metrics() or {})["miou"])


def test_other_bands_than_it_was_trained_on_are_told(tmp_path: Path, rasters: dict[str, Any]) -> None:
    taught = train_tiny(tmp_path / "teacher", TEACHER, data=rasters | {"bands": [3, 2, 1]}, epochs=1)
    data = rasters | {"bands": [1, 2, 3, 4, 5]}
    given: dict[str, Any] = {"data": data, "student": STUDENT, "teacher": str(taught.path), "teacher_bands": [1, 2, 3]}
    network = load_teacher(DistillRecipe.from_dict(given), build_data(data))
    assert network.notes == ["trained on bands 3, 2, 1 of its own files, but here it sees bands 1, 2, 3"]
    given["teacher_bands"] = [3, 2, 1]
    assert load_teacher(DistillRecipe.from_dict(given), build_data(data)).notes == []


def test_a_teacher_of_8_bits_beside_other_pixels(tmp_path: Path, teacher: Path, rasters: dict[str, Any]) -> None:
    told = r"the data holds pixels of type uint16, but teacher .* was trained on pixels of 8 bits"
    with pytest.raises(UserError, match=told):
        distill_tiny(tmp_path / "run", teacher, data=rasters | {"bands": [1, 2, 3]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("resize", "seen"), [([32, 32], None), ([16, 16], "resized to 16 x 16"), (None, "at their own size")]
)
def test_a_teacher_of_images_of_another_size_is_noted(tmp_path: Path, resize: Any, seen: str | None) -> None:
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 1})
    data = {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"], "crop": [16, 16]}
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1, data=data | {"resize": [32, 32]}).path
    images = Images.of(build_data(data | {"resize": resize}).train)
    network = teacher_for([GivenTeacher(teacher)], images)
    told = [note for note in network.notes if "resized to 32 x 32, but here it sees them" in note]
    assert len(told) == (seen is not None)
    assert seen is None or seen in told[0]
