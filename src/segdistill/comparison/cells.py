"""The cells of a comparison: one method and one seed each, trained by one recipe and measured alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from segdistill.comparison.methods import cell_recipe
from segdistill.comparison.options import LONGER
from segdistill.comparison.reading import CONFUSION_FILE, EVALUATION_FILE, cell_folder, error_file
from segdistill.data.tiling import Tiling
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.evaluation.evaluate import measure
from segdistill.files import write_atomically, write_json, write_text
from segdistill.networks.identity import network_digest, network_label
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.networks.size import count_macs, count_parameters
from segdistill.recipe.data import Data, build_data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.run_folder import RunFolder, recipe_differences
from segdistill.training.distill import run_distillation
from segdistill.training.loading import load_teacher
from segdistill.training.options import RunOptions
from segdistill.training.train import train


def train_cell(recipe: DistillRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> RunFolder:
    """Train a cell, or continue it; one that is finished is left as it is.

    The student begins with the same weights, sees the same batches in the same order and, step by step, draws the same
    random numbers whatever the method, since all these depend on the seed alone.

    Args:
        recipe: shared by all cells, see `cell_recipe`.
        folder: of the comparison.
        method: of the cell.
        seed: of the cell.
        device: see `RunOptions`.
        quiet: print nothing.

    Raises:
        UserError: as `distill`.
    """
    options = RunOptions(output=cell_folder(folder, method, seed), device=device, resume=True, quiet=quiet)
    own = cell_recipe(recipe, method, seed)
    return train(own, options) if isinstance(own, TrainRecipe) else run_distillation(own, options)


def measure_cell(recipe: DistillRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> None:
    """Scores a trained cell on the validation split into its folder."""
    run = cell_folder(folder, method, seed)
    sets = build_data(recipe.data, recipe.overfit)
    _write_scores(load_network(str(run)).to(choose_device(device)), sets, recipe, run, str(run), quiet)


def measure_teacher(recipe: DistillRecipe, folder: Path, *, device: str, quiet: bool) -> None:
    """Scores the teacher on the validation split, whose classes it has, into ``teacher/``."""
    sets = build_data(recipe.data, recipe.overfit).looked_closer_at(recipe.teacher_scale)
    sets = replace(sets, val=sets.val_for_teacher())
    check_teacher_finished(recipe)
    network = load_teacher(recipe, sets).to(choose_device(device))
    _write_scores(network, sets, recipe, cell_folder(folder, "teacher", -1), network_label(recipe.teacher), quiet)


def check_teacher_finished(recipe: DistillRecipe) -> None:
    """Refuse a teacher whose training has not ended: its scores would change.

    Raises:
        UserError: the teacher is a run folder without scores.
    """
    for one in recipe.teachers():
        if not isinstance(one.source, str | Path):
            continue
        run = RunFolder(one.source)
        if run.config_file.exists() and run.read_metrics() is None:
            raise UserError(
                f"teacher {one.source} has no metrics.json: its training has not ended; continue it with --resume first"
            )


def student_hash(recipe: DistillRecipe) -> str | None:
    """Hash of the weights that a student given as an object begins with; None for one that is made anew."""
    return None if isinstance(recipe.student, str | Path) else network_digest(recipe.student)


def _write_scores(network: Network, sets: Data, recipe: DistillRecipe, folder: Path, model: str, quiet: bool) -> None:
    found = measure(network, sets.val, batch_size=recipe.train.batch_size, quiet=quiet)
    size = sets.val.resize or sets.val.open(0).size
    longest = Tiling(sets.val.evaluation_window).longest(size)
    size = network.info.size or (min(size[0], longest), min(size[1], longest))
    confusion = found.confusion.to(torch.int32)  # no image has 2^31 pixels
    # The scores last: where they are, the counts are too.
    write_atomically(folder / CONFUSION_FILE, lambda file: file.write(save({"confusion": confusion.contiguous()})))
    write_json(
        folder / EVALUATION_FILE,
        {
            "model": model,
            "weights": None,
            "data": recipe.data,
            "split": "val",
            "parameters": count_parameters(network),
            "macs": count_macs(network, (size[0], size[1])),
            "size": size,
            **found.as_dict(),
        },
    )


def run_cell(recipe: DistillRecipe, folder: Path, method: str, seed: int, *, device: str, quiet: bool) -> None:
    """Trains and measures a cell; if that fails, leaves the sentence of why beside its folder.

    Ctrl-C and SIGTERM go through.
    """
    file = error_file(cell_folder(folder, method, seed))
    file.unlink(missing_ok=True)
    try:
        train_cell(recipe, folder, method, seed, device=device, quiet=quiet)
        measure_cell(recipe, folder, method, seed, device=device, quiet=quiet)
    except Exception as error:  # one cell's failure, of whatever kind, must not cost the others
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_text(file, f"{told}\n")


def cell_differences(recipe: DistillRecipe, folder: Path, method: str, seed: int) -> list[str]:
    """In what the recipe of a cell that was begun differs from what it would be now, in words."""
    run = RunFolder(cell_folder(folder, method, seed))
    if not run.config_file.exists():
        return []
    theirs: Mapping[str, Any] = run.read_config()
    ours = cell_recipe(recipe, method, seed).as_dict()
    if method in LONGER:  # its length was found by measurement
        ours["train"] |= {unit: theirs["train"][unit] for unit in ("epochs", "steps")}
    return recipe_differences(theirs, ours)
