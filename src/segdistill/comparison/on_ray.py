"""The cells of a comparison as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from segdistill.cluster import spread
from segdistill.comparison.cells import run_cell
from segdistill.comparison.reading import cell_folder, error_file
from segdistill.files import write_text
from segdistill.recipe.recipes import DistillRecipe


def run_on_ray(
    recipe: DistillRecipe,
    folder: Path,
    cells: Sequence[tuple[str, int]],
    *,
    device: str,
    cpus: int,
    gpus: float,
    done: Callable[[str, int], object],
) -> None:
    """Runs cells as Ray tasks, as many at once as the cluster has room for; see `spread`.

    Args:
        recipe: shared by the cells.
        folder: of the comparison.
        cells: method and seed of each.
        device: see `distill`.
        cpus: cores that a cell takes.
        gpus: GPUs that a cell takes; a part of one lets several share it.
        done: called with method and seed of each cell when it has ended, well or not.

    Raises:
        UserError: if the cluster has too little for a single cell.
    """
    task = partial(_run_cell, recipe, folder.resolve(), device)
    for (method, seed), ended in spread(task, cells, what="cell", cpus=cpus, gpus=gpus):
        if isinstance(ended, RuntimeError):
            write_text(error_file(cell_folder(folder, method, seed)), f"{ended}\n")
        done(method, seed)


def _run_cell(recipe: DistillRecipe, folder: Path, device: str, cell: tuple[str, int]) -> None:
    method, seed = cell
    run_cell(recipe, folder, method, seed, device=device, quiet=True)
