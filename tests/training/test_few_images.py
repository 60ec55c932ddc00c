"""A data set smaller than one batch is trained on, and said to be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import segdistill
from segdistill.datasets import Images, SyntheticAerial
from segdistill.recipe.data import Data, build_data
from segdistill.training.preparation import hint_at_more_crops, warn_of_few_images
from tests.datasets.trees import folder_tree
from tests.training.runs import SCENES, STUDENT
from tests.training.test_unlabelled import pictures

REPEATED = "so that images are repeated within a batch, augmented anew each time; lower train.batch_size"


@pytest.mark.parametrize(
    ("batch_size", "share", "told"),
    [
        (4, None, []),
        (5, None, ["5 training images, but the data has 4"]),
        (8, 0.5, ["4 unlabelled images, but the data has 3"]),
        (10, 0.5, ["5 labelled images, but the data has 4", "5 unlabelled images, but the data has 3"]),
        (7, 0.3, ["5 labelled images, but the data has 4"]),
        (6, 0.4, []),
    ],
)
def test_what_a_batch_takes_and_what_there_is(
    tmp_path: Path, batch_size: int, share: float | None, told: list[str]
) -> None:
    scenes = [SyntheticAerial(split=split, count=4, size=[32, 32]) for split in ("train", "val")]
    further: dict[str, Any] = {}
    if share is not None:
        root = pictures(tmp_path / "further", 3)
        further = {"unlabelled": Images(root, classes=list(scenes[0].classes)), "unlabelled_share": share}
    console = Console(file=io.StringIO())
    warn_of_few_images(Data(*scenes, **further), batch_size, console)
    assert console.file.getvalue().splitlines() == [f"warning: each batch takes {text}, {REPEATED}" for text in told]


def test_several_crops_of_an_image_count_as_so_many(tmp_path: Path) -> None:
    scenes = [SyntheticAerial(split=split, count=4, size=[32, 32]) for split in ("train", "val")]
    scenes[0].crops_per_image = 2
    console = Console(file=io.StringIO())
    warn_of_few_images(Data(*scenes), 8, console)
    assert console.file.getvalue() == ""
    warn_of_few_images(Data(*scenes), 9, console)
    assert console.file.getvalue() == f"warning: each batch takes 9 training images, but the data has 4, {REPEATED}\n"


@pytest.mark.parametrize(("overfit", "lines"), [(None, 1), (2, 0)])
def test_a_run_says_it_once_and_not_of_images_to_be_overfitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overfit: int | None, lines: int
) -> None:
    train = {"steps": 1, "batch_size": 6, "precision": "fp32", "workers": 0}
    segdistill.train(
        data=SCENES, network=STUDENT, output=tmp_path / "run", train=train, overfit=overfit, device="cpu", dry_run=True
    )
    line = f"warning: each batch takes 6 training images, but the data has {SCENES['count']}, {REPEATED}"
    assert capsys.readouterr().out.splitlines().count(line) == lines


@pytest.mark.parametrize(
    ("crop", "settings", "told"),
    [
        ([4, 4], {}, True),  # 12 x 16 pixels hold 12 of them
        ([4, 4], {"evaluation_window": 64}, True),
        ([4, 5], {}, False),
        ([4, 4], {"crops_per_image": 2}, False),
        ([4, 4], {"resize": [8, 8]}, False),
    ],
)
def test_large_images_of_which_an_epoch_sees_little(
    tmp_path: Path, crop: list[int], settings: dict[str, Any], told: bool
) -> None:
    root = folder_tree(tmp_path, {"train": 2, "val": 1})
    given = {"dataset": "folder", "root": root, "classes": ["a", "b", "c"], "crop": crop, **settings}
    console = Console(file=io.StringIO())
    hint_at_more_crops(build_data(given), console)
    assert console.file.getvalue().startswith("hint: an epoch takes one crop of 4 x 4 from each image, but") == told
    assert ("the first has 12 x 16: data.crops_per_image takes more" in console.file.getvalue()) == told
    assert ("data.evaluation_window" in console.file.getvalue()) == (told and "evaluation_window" not in settings)
