"""The cells of a comparison as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from segdistill.comparison.cells import SharedRecipe, run_cell
from segdistill.comparison.results import cell_folder, error_file
from segdistill.errors import UserError
from segdistill.files import write_text


def run_on_ray(
    recipe: SharedRecipe,
    folder: Path,
    cells: Sequence[tuple[str, int]],
    *,
    device: str,
    cpus: int,
    gpus: float,
    done: Callable[[str, int], object],
) -> None:
    """Runs cells as Ray tasks, as many at once as the cluster has room for.

    Joins the cluster that ``RAY_ADDRESS`` or an earlier ``ray.init`` names, else starts one on this machine. On several
    machines, the working directory, the output folder, the data and the teacher must be under the same paths on all.

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
    import ray  # an extra, and slow to import

    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unasked
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    waiting: dict[Any, tuple[str, int]] = {}
    try:
        resources: Callable[[], dict[str, float]] = ray.cluster_resources
        there = resources()
        for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > there.get(kind, 0):
                raise UserError(
                    f"a cell takes {wanted:g} {kind}s, but the Ray cluster has {there.get(kind, 0):g} in all; "
                    f"lower {kind.lower()}s_per_cell"
                )
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run_cell)
        where = str(folder.resolve()), str(Path.cwd())
        for method, seed in cells:
            waiting[task.remote(recipe, *where, method, seed, device, cpus)] = (method, seed)
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                method, seed = waiting.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:  # the process itself ended: memory, a kill, a lost machine
                    told = f"its process ended ({type(error).__name__}); too little memory is the usual cause"
                    write_text(error_file(cell_folder(folder, method, seed)), f"{told}\n")
                done(method, seed)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _run_cell(
    recipe: SharedRecipe, folder: str, working_directory: str, method: str, seed: int, device: str, cpus: int
) -> None:
    os.chdir(working_directory)  # relative paths in a recipe mean what they mean to the one who asked
    torch.set_num_threads(cpus)
    run_cell(recipe, Path(folder), method, seed, device=device, quiet=True)
