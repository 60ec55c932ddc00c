"""What is kept of the teacher is what it would say."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from segdistill import Distiller, Network, RunFolder, UserError
from segdistill.data.loading import TrainingSamples
from segdistill.methods import KD, METHODS, Method
from segdistill.networks.features import Features
from segdistill.training.step import Kept
from segdistill.training.teacher_cache import KnownTeacher, TeacherCache
from segdistill.training.teacher_source import TeacherSource
from tests.datasets.trees import folder_tree, write_mask
from tests.training.filling import SEED, Filling, agree, all_but_the_teacher, same_records
from tests.training.runs import TEACHER, contents, distill_tiny, fingerprint, train_tiny
from tests.training.test_processes import TRAIN, start, write_recipe
from tests.training.test_resume import Killed, history_without_times, stop_in


class WholeViews(Method):
    """A method of somebody else's that does not say what it needs."""

    def forward(self, *, student: Features, teacher: Features, labels: Any, valid: Any) -> dict[str, torch.Tensor]:
        return {"stages": student.stages[0].mean() - teacher.stages[0].mean() * teacher.embedding.mean()}


def not_to_be_loaded() -> Network:
    raise AssertionError("the teacher was loaded")


@pytest.mark.parametrize("kind", [*METHODS.values(), WholeViews])
def test_kept_is_what_the_teacher_says_of_this_very_view(tmp_path: Path, kind: type[Method]) -> None:
    """Crop, scale, flips, turns and colours included; a flipped record would not do."""
    filling = Filling(tmp_path / "cache", [kind()], images=4)
    cache = filling.fill()
    looks = [filling.augmentation.view((48, 64), (SEED, *key)) for key in filling.all_keys()]
    assert {look.flip for look in looks} == {look.vertical_flip for look in looks} == {True, False}
    assert len({look.turns for look in looks}) > 2
    for view, image in filling.all_keys():
        live = filling.live(view, image)
        kept = cache.read(view, image)
        assert kept.keys() == live.keys() == set(filling.names)
        for name, value in kept.items():
            assert value.dtype == torch.float16
            assert agree(value, live[name], 11), name
            assert not agree(value, filling.live(1 - view, image)[name], 8), f"{name} is the same in both views"


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    filling = Filling(tmp_path / "cache", [METHODS[name]()], precision="bf16")
    cache = filling.fill()
    for key in filling.all_keys():
        live = filling.live(*key)
        for target, value in cache.read(*key).items():
            half = torch.bfloat16 if live[target].dtype == torch.bfloat16 else torch.float16
            assert value.dtype == half, target
            # A convolution over a batch of another size may round its results to the next number.
            assert agree(value, live[target], 6), target


@pytest.mark.parametrize("name", METHODS)
def test_step_from_kept_targets_is_the_live_step(tmp_path: Path, name: str) -> None:
    filling = Filling(tmp_path / "cache", [METHODS[name]()])
    cache = filling.fill()
    batch = [(0, 0), (0, 2)]
    images = torch.cat([filling.shown(*key) for key in batch])
    labels = torch.randint(0, 6, (2, 32, 40), generator=torch.Generator().manual_seed(0))
    teacher_outputs = torch.utils.data.default_collate([cache.read(*key) for key in batch])
    filling.distiller.prepare([images])
    # What a method draws and remembers moves on with every step: both begin from the same.
    before = deepcopy(filling.distiller.state_dict())
    live = filling.distiller(images, labels)
    source = TeacherSource(not_to_be_loaded, tmp_path / "cache")
    learner = Distiller(source, filling.distiller.student, METHODS[name]())
    learner.load_state_dict(before)
    cached = learner(images, labels, Kept(teacher_outputs, torch.device("cpu")).teacher_outputs)
    with pytest.raises(UserError, match="the teacher is not loaded: pass teacher_outputs with every batch"):
        learner(images, labels)
    assert cached.terms.keys() == live.terms.keys()
    for term, value in cached.terms.items():
        assert value.item() == pytest.approx(live.terms[term].item(), rel=2e-3), term


def test_half_precision_and_nothing_else_is_stored(tmp_path: Path) -> None:
    """2 bytes a number; the embedding that three methods share is there once, pooled."""
    filling = Filling(tmp_path / "cache", [METHODS["ka"](), METHODS["drd"](), METHODS["kd"](), METHODS["cwd"]()])
    filling.fill()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "cache").glob("*.bin")}
    numbers = {"embedding.pooled": 16 * 4 * 5, "logits": 6 * 4 * 5}
    expected = {f"{name}.view{view}.bin": 3 * 2 * count for name, count in numbers.items() for view in (0, 1)}
    assert sizes == expected
    assert isinstance(filling.cache._file("logits", 0).read(0).base.base, np.memmap)


def test_what_is_remembered_of_the_teacher(tmp_path: Path) -> None:
    assert TeacherCache.known_teacher(tmp_path / "cache") is None
    filling = Filling(tmp_path / "cache", [KD()])
    filling.teacher.info = replace(filling.teacher.info, size=(32, 40))
    filling.fill()
    assert TeacherCache.known_teacher(tmp_path / "cache") == KnownTeacher(
        filling.teacher.info, filling.teacher.multiple
    )
    data = {"dataset": "camvid", "crop": [32, 32]}
    assert filling.cache.teacher_miou(data) is None
    filling.cache.keep_teacher_miou(data, 41.5)
    again = TeacherCache(tmp_path / "cache", {"precision": "fp32"}, 3, 2)
    assert again.teacher_miou(data) == 41.5
    assert again.teacher_miou(data | {"dataset": "voc"}) is None


def test_the_teachers_score_is_of_the_validation_masks_as_they_are(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"]}
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1, data=data).path
    kept = {"data": data, "method": "kd", "epochs": 1, "views": 1}

    def score(name: str) -> float | None:
        run = distill_tiny(tmp_path / name, teacher, **kept, teacher_cache=tmp_path / "cache")
        return (run.read_metrics() or {})["teacher_miou"]

    before = score("first")
    assert before is not None
    assert score("second") == before
    write_mask(root / "masks/val/val0.png", np.full((12, 16), 2, np.uint8))
    assert score("third") is None  # it is not loaded for that alone


def test_travels_to_another_process(tmp_path: Path) -> None:
    cache = Filling(tmp_path / "cache", [KD()]).fill()
    here = cache.read(1, 2)["logits"]
    assert torch.equal(ForkingPickler.loads(ForkingPickler.dumps(cache)).read(1, 2)["logits"], here)


def test_says_its_size_and_shows_a_bar(tmp_path: Path) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    filling = Filling(tmp_path / "cache", [KD()])
    filling.fill(console=terminal, progress=True)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    # 3 images x 2 views x (6 classes x 4 x 5 numbers of 2 bytes, and a flag)
    assert "3 images x 2 views of logits take 1.45 kB" in text
    assert text.index("1.45 kB") < text.index("100%")
    assert "filling the teacher cache" in text


# Whole runs


@pytest.mark.parametrize("method", ["kd", "ka", "brd"])
def test_filled_once(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The second run loads no teacher and ends where the first does; the live run goes the same way."""
    options: dict[str, Any] = {"method": method, "views": 2, "epochs": 2}
    first = distill_tiny(tmp_path / "first", teacher, teacher_cache=tmp_path / "cache", **options)
    live = distill_tiny(tmp_path / "live", teacher, **options)
    kept = contents(tmp_path / "cache")
    all_but_the_teacher(monkeypatch, teacher)
    second = distill_tiny(tmp_path / "second", teacher, teacher_cache=tmp_path / "cache", **options)
    assert fingerprint(first) == fingerprint(second)
    assert contents(tmp_path / "cache") == kept
    # Later epochs drift apart: training makes much of little differences.
    ours, theirs = (next(row for row in run.read_history() if row["epoch"] == "1") for run in (second, live))
    assert ours.keys() == theirs.keys()
    for name in (column for column in theirs if column.startswith("loss/")):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-2), name
    metrics = [run.read_metrics() for run in (first, second, live)]
    assert len({found["teacher_miou"] for found in metrics if found is not None}) == 1


def test_views_come_in_turn(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    read = TeacherCache.read

    def noting(self: TeacherCache, view: int, image: int) -> dict[str, torch.Tensor]:
        seen.append((view, image))
        return read(self, view, image)

    monkeypatch.setattr(TeacherCache, "read", noting)
    distill_tiny(tmp_path / "run", teacher, views=2, teacher_cache=tmp_path / "cache", epochs=3)
    epochs = [seen[at : at + 4] for at in range(0, len(seen), 4)]  # 5 images make 2 batches of 2
    assert [{view for view, _ in epoch} for epoch in epochs] == [{0}, {1}, {0}]
    assert all(len({image for _, image in epoch}) == 4 for epoch in epochs)


def test_targets_belong_to_their_images(tmp_path: Path) -> None:
    """Epoch 2 shows the pixels of epoch 0 beside what was said of them."""
    filling = Filling(tmp_path / "cache", [KD()])
    samples = TrainingSamples(filling.scenes, filling.augmentation, SEED, 2, filling.fill().read)
    for epoch in range(4):
        image, _, teacher_outputs = samples[epoch, 1]
        assert torch.equal(image[None], filling.shown(epoch % 2, 1))
        assert agree(teacher_outputs["logits"], filling.live(epoch % 2, 1)["logits"], 11)


def test_another_method_adds_what_is_missing(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"views": 2, "teacher_cache": tmp_path / "cache"}
    distill_tiny(tmp_path / "kd", teacher, method="kd", **options)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "cache").glob("logits.*")}
    assert len(before) == 4
    distill_tiny(tmp_path / "ka", teacher, method="ka", **options)
    distill_tiny(tmp_path / "brd", teacher, method="brd", **options)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    names = {path.name.removesuffix(".view0.bin") for path in (tmp_path / "cache").glob("*.view0.bin")}
    assert names == {"logits", "embedding.pooled", *(f"boundary.pool.{stage}" for stage in range(4))}
    all_but_the_teacher(monkeypatch, teacher)
    distill_tiny(tmp_path / "all", teacher, method=["kd", "ka", "brd", "cwd"], **options)


def test_a_run_that_grows_the_cache_leaves_one_that_reads_it_alone(tmp_path: Path) -> None:
    reading = Filling(tmp_path / "cache", [KD()])
    reading.fill()
    before = reading.cache.read(0, 1)["logits"]
    growing = Filling(tmp_path / "cache", [METHODS["brd"]()])
    growing.fill()
    reading.cache.keep_teacher_miou({}, 30.0)  # by the run whose manifest is the older one
    assert torch.equal(reading.cache.read(0, 1)["logits"], before)
    assert Filling(tmp_path / "cache", [METHODS["brd"]()]).cache.want(growing.names) == []


def test_loading_processes_change_nothing(tmp_path: Path, teacher: Path) -> None:
    runs = [
        distill_tiny(
            tmp_path / f"run{workers}",
            teacher,
            method=["ka", "cwd"],
            views=2,
            teacher_cache=tmp_path / f"cache{workers}",
            workers=workers,
            epochs=2,
        )
        for workers in (0, 1)
    ]
    assert fingerprint(runs[0]) == fingerprint(runs[1])
    assert contents(tmp_path / "cache0") == contents(tmp_path / "cache1")


@pytest.mark.parametrize("batch", [0, 1])
def test_cached_run_goes_on(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    options: dict[str, Any] = {"method": ["ka", "brd"], "views": 2, "teacher_cache": tmp_path / "cache"}
    whole = distill_tiny(tmp_path / "whole", teacher, **options)
    all_but_the_teacher(monkeypatch, teacher)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, batch=batch)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", teacher, **options)
    resumed = distill_tiny(tmp_path / "broken", teacher, resume=True, **options)
    assert fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)


@pytest.mark.slow
def test_two_processes_fill_it_together(tmp_path: Path, teacher: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, method="brd", views=2, train=TRAIN | {"epochs": 1})
    both = start(recipe, tmp_path / "two", "--devices", "2", "--teacher_cache", str(tmp_path / "cache"))
    output, errors = both.communicate(timeout=400)
    assert both.returncode == 0, errors
    assert output.count("9 images x 2 views") == 1
    one = distill_tiny(
        tmp_path / "one",
        teacher,
        method="brd",
        views=2,
        teacher_cache=tmp_path / "alone",
        data=RunFolder(tmp_path / "two").read_config()["data"],
        batch_size=4,
        epochs=1,
    )
    assert one.read_metrics() is not None
    assert same_records(tmp_path / "cache", tmp_path / "alone")
    assert all(set(path.read_bytes()) == {1} for path in (tmp_path / "cache").glob("*.done"))
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("cache", "alone")]
    assert manifests[0] == manifests[1]
