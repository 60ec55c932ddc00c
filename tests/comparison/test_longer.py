"""How long the student alone is trained: for as long as more epochs help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from segdistill import TrainConfig
from segdistill.comparison.longer import run_longer
from segdistill.comparison.reading import load_comparison, read_plan
from segdistill.recipe.recipes import DistillRecipe
from tests.comparison.planted import counts, plain_miou, plant, plant_cell

RECIPE = DistillRecipe(data={}, teacher="runs/teacher", student="smp:FPN:resnet18", train=TrainConfig(epochs=10))


class Trainings:
    """Stands in for training: a run of so many epochs gets a share of pixels right."""

    def __init__(self, rights: Mapping[int, float]) -> None:
        self.rights = rights
        self.made: list[tuple[int, int]] = []

    def __call__(self, recipe: DistillRecipe, folder: Path, cells: list[tuple[str, int]]) -> None:
        epochs = recipe.train.length
        for method, seed in cells:
            run = folder / "cells" / method / f"seed-{seed}"
            if not run.exists():
                self.made.append((epochs, seed))
                plant_cell(run, counts(self.rights[epochs], 7))


def to_the_plateau(folder: Path, rights: Mapping[int, float]) -> Trainings:
    plant(folder, {"none": (0.700, 0.704, 0.697), "kd": (0.750, 0.756, 0.748)})
    plan = read_plan(folder)
    assert plan is not None
    plan["methods"].append("none@plateau")
    (folder / "plan.json").write_text(json.dumps(plan))
    trainings = Trainings(rights)
    run_longer("none@plateau", RECIPE, folder, plan, trainings)
    return trainings


def test_epochs_are_doubled_until_that_helps_no_more(tmp_path: Path) -> None:
    trainings = to_the_plateau(tmp_path, {20: 0.78, 40: 0.82, 80: 0.8201})
    # The first seed's run of the best length is not made twice.
    assert trainings.made == [(20, 0), (40, 0), (80, 0), (80, 1), (80, 2)]
    found = json.loads((tmp_path / "plateau.json").read_text())
    assert found["epochs"] == 80
    assert found["miou"]["40"] == pytest.approx(plain_miou(counts(0.82, 7)))
    assert found["miou"]["10"] == pytest.approx(plain_miou(counts(0.70, 0)))
    comparison = load_comparison(tmp_path)
    kd = next(row for row in comparison.rows if row.method == "kd")
    assert set(kd.against) == {"none@plateau"}
    assert kd.against["none@plateau"].verdict == "worse"
    assert "trained until more epochs no longer helped, kd is worse" in comparison.verdict


def test_a_longer_training_that_is_worse_is_not_taken(tmp_path: Path) -> None:
    trainings = to_the_plateau(tmp_path, {20: 0.74, 40: 0.72})
    assert trainings.made == [(20, 0), (40, 0), (20, 1), (20, 2)]


def test_where_nothing_longer_helps_the_baseline_is_not_trained_again(tmp_path: Path) -> None:
    trainings = to_the_plateau(tmp_path, {20: 0.69})
    assert trainings.made == [(20, 0)]
    assert json.loads((tmp_path / "plateau.json").read_text())["epochs"] == 10
    rows = load_comparison(tmp_path).rows
    scores = {row.method: [cell.evaluation and cell.evaluation["miou"] for cell in row.cells] for row in rows}
    assert len(scores["none"]) == 3
    assert scores["none@plateau"] == scores["none"]


def test_sixteen_times_the_epochs_are_the_most(tmp_path: Path) -> None:
    trainings = to_the_plateau(tmp_path, {20: 0.74, 40: 0.76, 80: 0.78, 160: 0.80})
    assert [epochs for epochs, _ in trainings.made] == [20, 40, 80, 160, 160, 160]


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    to_the_plateau(tmp_path, {20: 0.74, 40: 0.72})
    plan = read_plan(tmp_path)
    assert plan is not None
    again = Trainings({})
    run_longer("none@plateau", RECIPE, tmp_path, plan, again)
    assert again.made == []
