"""The student alone, trained for longer than the methods: what each method is held against."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.comparison.methods import is_alone
from segdistill.comparison.options import BASELINE, EQUAL_TIME, PLATEAU
from segdistill.comparison.reading import cell_folder, read_cell, read_json
from segdistill.comparison.results import Cell
from segdistill.files import write_json
from segdistill.recipe.recipes import DistillRecipe
from segdistill.run_folder import RunFolder

#: Points of mIoU that twice the length must bring for the student alone to be trained for longer still.
STILL_BETTER = 0.3

#: How many times the recipe's length the student alone gets at most.
MOST_TIMES = 16

#: Trains and measures cells of a recipe in the folder of a comparison.
RunCells = Callable[[DistillRecipe, Path, list[tuple[str, int]]], None]


def stretched_recipe(recipe: DistillRecipe, length: int) -> DistillRecipe:
    """The recipe of the student alone over so many epochs, or steps; its schedule is stretched over them."""
    return replace(recipe, train=recipe.train.lasting(length))


def finished_cells(folder: Path, method: str, plan: Mapping[str, Any]) -> list[Cell]:
    """The cells of a method that were trained and measured."""
    cells = [read_cell(folder, method, seed, plan) for seed in plan["seeds"]]
    return [cell for cell in cells if cell.finished]


def finished_seconds(folder: Path, plan: Mapping[str, Any]) -> dict[str, float]:
    """Mean training seconds of the finished cells, by method."""
    found = {}
    for name in plan["methods"]:
        seconds = [cell.seconds for cell in finished_cells(folder, name, plan) if cell.seconds is not None]
        if seconds:
            found[name] = sum(seconds) / len(seconds)
    return found


def estimated_seconds(name: str, seconds: Mapping[str, float]) -> float:
    """About how long a longer training of the student alone takes; that to the plateau at least.

    Args:
        name: one of `LONGER`.
        seconds: of one training of each other method, the baseline among them.
    """
    return max(seconds.values()) if name == EQUAL_TIME else 2 * seconds[BASELINE]


def run_longer(name: str, recipe: DistillRecipe, folder: Path, plan: Mapping[str, Any], run_cells: RunCells) -> None:
    """Trains the student alone for longer, after all methods, with every seed.

    Args:
        name: one of `LONGER`.
        recipe: shared by all cells.
        folder: of the comparison.
        plan: what plan.json holds.
        run_cells: trains and measures those cells that are not finished.
    """
    if name == EQUAL_TIME:
        length = _equal_time_length(folder, recipe, plan)
    else:
        length = _plateau_length(folder, recipe, plan, run_cells)
    if length == recipe.train.length:
        _take_the_baseline(name, folder, plan)
    run_cells(stretched_recipe(recipe, length), folder, [(name, seed) for seed in plan["seeds"]])


def _take_the_baseline(name: str, folder: Path, plan: Mapping[str, Any]) -> None:
    """Copies the baseline's finished runs: training them again for no longer would give the same networks."""
    for cell in finished_cells(folder, BASELINE, plan):
        run = cell_folder(folder, name, cell.seed)
        if not run.exists():
            unfinished = run.with_name(f"{run.name}.copying")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(cell_folder(folder, BASELINE, cell.seed), unfinished)
            unfinished.replace(run)


def _equal_time_length(folder: Path, recipe: DistillRecipe, plan: Mapping[str, Any]) -> int:
    """Epochs, or steps, in which the student alone trains for as long as the slowest method; once chosen, they stay."""
    train = recipe.train
    for seed in plan["seeds"]:
        begun = RunFolder(cell_folder(folder, EQUAL_TIME, seed))
        if begun.config_file.exists():
            return int(begun.read_config()["train"][train.unit])
    seconds = finished_seconds(folder, plan)
    lengths = [cell.length_in(train.unit) for cell in finished_cells(folder, BASELINE, plan)]
    known = [length for length in lengths if length is not None]
    slowest = max((spent for name, spent in seconds.items() if not is_alone(name)), default=None)
    if slowest is None or not seconds.get(BASELINE):
        return train.length
    return max(train.length, round(slowest / seconds[BASELINE] * sum(known) / len(known)))


def _plateau_length(folder: Path, recipe: DistillRecipe, plan: Mapping[str, Any], run_cells: RunCells) -> int:
    """Epochs, or steps, from which on more do not make the student alone better; once found, plateau.json keeps them.

    With the first seed, the length of the recipe is doubled, each time in a run of its own with its own schedule, as
    long as the mIoU grows by `STILL_BETTER` points; the best length is taken. It is chosen on the images that the
    scores are of, to the baseline's advantage.
    """
    file, unit = folder / "plateau.json", recipe.train.unit
    if file.exists():
        return int(read_json(file)[unit])
    seed = plan["seeds"][0]
    first = recipe.train.length
    baseline = read_cell(folder, BASELINE, seed, plan)
    scores: dict[int, float] = {}
    if baseline.evaluation is not None:
        scores[first] = float(baseline.evaluation["miou"])
    trials = folder / "plateau"
    length = 2 * first
    while length <= MOST_TIMES * first:
        trial = trials / f"{unit}-{length}"
        run_cells(stretched_recipe(recipe, length), trial, [(PLATEAU, seed)])
        measured = read_cell(trial, PLATEAU, seed, plan).evaluation
        if measured is None:  # it failed, and says why in its folder; it is tried again with the cells
            return length
        before, scores[length] = max(scores.values(), default=0.0), float(measured["miou"])
        if scores[length] < before + STILL_BETTER:
            break
        length *= 2
    best = max(scores, key=lambda one: (scores[one], -one))
    found, cell = cell_folder(trials / f"{unit}-{best}", PLATEAU, seed), cell_folder(folder, PLATEAU, seed)
    if found.exists() and not cell.exists():  # this run is the first seed's cell
        cell.parent.mkdir(parents=True, exist_ok=True)
        found.replace(cell)
    write_json(file, {unit: best, "miou": {str(one): score for one, score in scores.items()}, "seed": seed})
    return best
