"""Runs with images that only the teacher speaks about."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import segdistill
from segdistill import UserError
from segdistill.data import EpochSampler
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import training_loader
from segdistill.datasets import Images, SyntheticAerial
from segdistill.datasets.base import UNLABELLED
from segdistill.inspection.before_run import check_before_run
from segdistill.recipe.data import Data, build_data, labels_alone
from segdistill.recipe.recipes import DistillRecipe
from tests.datasets.trees import folder_tree
from tests.training.runs import FAST, SCENES, STUDENT, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, stop_in


def pictures(folder: Path, count: int, size: tuple[int, int] = (36, 40)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def keys(epoch: int = 0, skipped: int = 0, **arguments: Any) -> list[tuple[int, int]]:
    sampler = EpochSampler(
        **{"length": 7, "seed": 3, "batch_size": 4, "unlabelled": 5, "unlabelled_in_batch": 2} | arguments
    )
    sampler.set_epoch(epoch, skipped)
    assert len(list(sampler)) == len(sampler)
    return list(sampler)


def test_an_epoch_is_one_pass_over_the_labelled_images_in_batches_of_both() -> None:
    for epoch in range(3):
        found = keys(epoch)
        assert len(found) == 3 * 4
        labelled = [index for number, index in found if index < 7]
        assert len(set(labelled)) == len(labelled) == 6
        assert {number for number, index in found if index < 7} == {epoch}
        for start in range(0, 12, 2):  # of two parts of a batch each holds both kinds
            assert sum(index >= 7 for _, index in found[start : start + 2]) == 1


def test_unlabelled_images_are_all_seen_in_turn_each_pass_in_another_view() -> None:
    row = [key for epoch in range(5) for key in keys(epoch) if key[1] >= 7]
    assert len(row) == 30
    for number in range(6):
        one_pass = row[5 * number : 5 * number + 5]
        assert {at for at, _ in one_pass} == {number}
        assert {index for _, index in one_pass} == set(range(7, 12))
    assert [index for _, index in row[:5]] != [index for _, index in row[5:10]]


def test_parts_and_skipped_batches_are_those_of_the_whole() -> None:
    whole = keys(2)
    assert keys(2, skipped=1) == whole[4:]
    ranks = [keys(2, parts=4, rank=rank, world=2) for rank in range(2)]
    for start in range(0, 12, 4):
        half = start // 2
        assert [ranks[0][half], ranks[1][half], ranks[0][half + 1], ranks[1][half + 1]] == whole[start : start + 4]


def test_without_unlabelled_images_the_order_is_what_it_was() -> None:
    found = keys(1, unlabelled=0, unlabelled_in_batch=0)
    assert [index for _, index in found] == torch.randperm(
        7, generator=segdistill.data.seeding.keyed_generator(3, 1)
    ).tolist()[:4]


def test_a_loader_gives_labels_and_no_labels(tmp_path: Path) -> None:
    labelled, unlabelled = SyntheticAerial(count=1, size=(36, 40)), Images(pictures(tmp_path, 1), resize=[36, 40])
    unlabelled.classes = labelled.classes
    data = Data(
        labelled, labelled, Augmentation((32, 32), scale=(0.5, 0.6)), unlabelled=unlabelled, unlabelled_share=0.5
    )
    loader = training_loader(
        data.training_set(6), data.augmentation, 6, 0, 0, unlabelled_in_batch=data.unlabelled_in_batch(6)
    )
    images, labels = next(iter(loader))
    assert images.shape == (6, 3, 32, 32)
    assert [bool((one == UNLABELLED).any()) for one in labels] == [False, True] * 3
    assert all(set(one.unique().tolist()) == {UNLABELLED, 255} for one in labels[1::2])  # 255: padding
    assert len({image.numpy().tobytes() for image in images}) == 6  # one image of each, in views that differ
    with pytest.raises(UserError, match=r"train.batch_size is 1, too small for labelled and unlabelled images"):
        data.unlabelled_in_batch(1)


def test_a_run_its_cache_and_a_run_that_was_stopped_are_one(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SCENES | {"unlabelled": str(pictures(tmp_path / "more", 3)), "unlabelled_share": 0.5}
    options: dict[str, Any] = {"data": data, "views": 2, "method": "cwd", "batch_size": 4}
    whole = distill_tiny(tmp_path / "whole", teacher, **options)
    metrics = json.loads((whole.path / "metrics.json").read_text())
    assert (metrics["labelled_images"], metrics["unlabelled_images"]) == (5, 3)
    assert "5 labelled and 3 unlabelled images" in (whole.path / "report.html").read_text()
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=1)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "stopped", teacher, **options)
    resumed = distill_tiny(tmp_path / "stopped", teacher, resume=True, **options)
    assert fingerprint(resumed) == fingerprint(whole)
    parted = distill_tiny(tmp_path / "parted", teacher, accumulate=2, **options)
    assert parted.read_numbers()[0]["epoch"] == 1
    cached = [
        distill_tiny(tmp_path / f"cached{number}", teacher, teacher_cache=str(tmp_path / "cache"), **options)
        for number in range(2)
    ]
    assert fingerprint(cached[0]) == fingerprint(cached[1])
    losses = [run.read_numbers()[0]["loss/cwd"] for run in (whole, cached[0])]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert len(list((tmp_path / "cache").glob("*.view*.bin"))) == 2
    pictures(tmp_path / "more", 4)
    with pytest.raises(UserError, match="teacher cache"):
        distill_tiny(tmp_path / "other", teacher, teacher_cache=str(tmp_path / "cache"), **options)


def test_the_teacher_alone_speaks_of_unlabelled_images(tmp_path: Path, teacher: Path) -> None:
    """The task loss is that of the labelled half of the batches alone."""
    data = SCENES | {"unlabelled": str(pictures(tmp_path / "more", 6)), "unlabelled_share": 0.5}
    run = distill_tiny(tmp_path / "run", teacher, data=data, method="kd", batch_size=4, steps=1, epochs=None, lr=1e-9)
    alone = distill_tiny(tmp_path / "alone", teacher, method="kd", batch_size=2, steps=1, epochs=None, lr=1e-9)
    # Batch normalisation sees the other images, so that the task loss is near and not equal.
    rows = [one.read_numbers()[0] for one in (run, alone)]
    assert rows[0]["loss/task"] == pytest.approx(rows[1]["loss/task"], rel=0.3)
    assert rows[0]["loss/kd"] != pytest.approx(rows[1]["loss/kd"], rel=1e-4)


def test_dry_run_and_overfit(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = SCENES | {"unlabelled": str(pictures(tmp_path / "more", 3))}
    recipe: dict[str, Any] = {
        "data": data,
        "teacher": teacher,
        "student": STUDENT,
        "train": replace(FAST, batch_size=4),
    }
    segdistill.distill(**recipe, output=tmp_path / "none", dry_run=True, device="cpu")
    assert "3 images, 2 of the 4 images of each batch" in " ".join(capsys.readouterr().out.split())
    assert build_data(data, overfit=2).unlabelled is None


def test_the_student_alone_sees_the_same_labelled_images_as_often(tmp_path: Path) -> None:
    data = SCENES | {"unlabelled": str(pictures(tmp_path, 3)), "unlabelled_share": 0.25}
    train = replace(FAST, batch_size=8, accumulate=4)
    alone = DistillRecipe(data=data, teacher="t", student=STUDENT, train=train).alone()
    assert "unlabelled" not in alone.data
    assert "unlabelled_share" not in alone.data
    assert (alone.train.batch_size, alone.train.accumulate) == (6, 2)
    built = build_data(data)
    assert labels_alone(built, 8)[1] == 6
    assert labels_alone(built, 8)[0].unlabelled is None
    assert built.images_per_epoch(8) == 8
    with pytest.raises(
        UserError, match="data: unlabelled names images without labels, but train learns only from labels"
    ):
        train_tiny(tmp_path / "run", data=data)


def test_a_recipes_unlabelled_images_are_left_out(tmp_path: Path, teacher: Path) -> None:
    without = distill_tiny(tmp_path / "without", teacher)
    data = SCENES | {"unlabelled": None, "unlabelled_share": 0.25}  # by --data.unlabelled null
    run = distill_tiny(tmp_path / "run", teacher, data=data)
    assert fingerprint(run) == fingerprint(without)
    assert fingerprint(distill_tiny(tmp_path / "run", teacher, data=data, resume=True)) == fingerprint(without)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unlabelled": "nowhere"}, "the folder nowhere does not exist"),
        ({"unlabelled_share": 0.5}, "unlabelled_share goes with unlabelled"),
        ({"unlabelled": "more", "unlabelled_share": 1.0}, "unlabelled_share is 1.0, expected a number between 0 and 1"),
        ({"unlabelled": "more", "unlabelled_share": "half"}, "unlabelled_share is 'half'"),
        ({"unlabelled": {"root": "more", "bands": [1, 2]}}, "2 channels, but the training images have 3"),
        ({"unlabelled": {"root": "more", "frames": 3}}, "unknown key in data.unlabelled: 'frames'"),
        ({"unlabelled": "empty"}, "empty holds no image"),
    ],
)
def test_bad_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "more", 1)
    with pytest.raises(UserError, match=message):
        build_data(SCENES | values)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (None, None),
        ("no masks", r"the folder \S*masks/test does not exist; expected the masks"),
        ("broken", r"\S*images/test/test0.png cannot be read"),
        ("empty list", r"\S*test.txt is an empty file"),
    ],
)
def test_a_test_split_that_cannot_be_read_is_told_of_unlike_one_that_is_not_there(
    tmp_path: Path, test: str | None, told: str | None
) -> None:
    root = folder_tree(tmp_path / "data", {"train": 1, "val": 1, "test": 0 if test in (None, "empty list") else 1})
    if test == "no masks":
        shutil.rmtree(root / "masks" / "test")
    elif test == "broken":
        (root / "images" / "test" / "test0.png").write_bytes(b"no picture")
    elif test == "empty list":
        (root / "test.txt").touch()
    values = {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"]}
    console = Console(file=io.StringIO(), width=300)
    more = pictures(tmp_path / "more", 2, (50, 50))
    check_before_run(build_data(values | {"unlabelled": str(more)}), console)
    lines = [line for line in console.file.getvalue().splitlines() if "the test split" in line]  # type: ignore[attr-defined]
    assert len(lines) == (told is not None)
    assert told is None or re.search(f"warning: the test split cannot be read, .*: {told}", lines[0])


def test_images_of_val_or_test_among_the_unlabelled_ones_stop_a_run(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        pictures(tmp_path / "images" / split, 1, {"train": (32, 40), "val": (40, 32), "test": (48, 32)}[split])
        (tmp_path / "masks" / split).mkdir(parents=True)
        height, width = {"train": (32, 40), "val": (40, 32), "test": (48, 32)}[split]
        mask = (np.arange(height * width).reshape(height, width) // 40 % 2).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / split / "0.png")
    more = pictures(tmp_path / "more", 2, (50, 50))
    values = {"dataset": "folder", "root": str(tmp_path), "classes": ["a", "b"], "unlabelled": str(more)}

    def check() -> list[str]:
        console = Console(file=io.StringIO(), width=300)
        check_before_run(build_data(values), console)
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    assert check() == []
    shutil.copy(tmp_path / "images/train/0.png", more / "known.png")  # labelled as well, which does no harm
    assert check() == []
    Image.open(tmp_path / "images/test/0.png").save(more / "again.bmp")
    with pytest.raises(
        UserError, match=r"1 unlabelled image is also in test, pixel by pixel: \S*again.bmp = \S*test/0.png"
    ):
        check()
    shutil.copy(tmp_path / "images/val/0.png", more / "copy.png")
    with pytest.raises(
        UserError, match=r"1 unlabelled image is also in val, pixel by pixel: \S*copy.png = \S*val/0.png"
    ):
        check()
    report = segdistill.check_data(data=values, quiet=True)
    leaks = [finding.what for finding in report.findings if finding.kind == "same-image"]
    assert leaks == [
        "1 image of val is also in unlabelled: the same pixels",
        "1 image of test is also in unlabelled: the same pixels",
    ]
    (more / "copy.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"copy.png cannot be read"):
        check()
