"""`segdistill.compare`: methods and the student alone by one recipe over several seeds; is there a gain, is it real?"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison.cells import measure_teacher, run_cell
from segdistill.comparison.cost import cell_cost
from segdistill.comparison.longer import estimated_seconds, finished_cells, finished_seconds, run_longer
from segdistill.comparison.methods import parse_methods, shared_recipe
from segdistill.comparison.on_ray import run_on_ray
from segdistill.comparison.options import (
    BASELINE,
    EQUAL_TIME,
    LONGER,
    PLATEAU,
    CellOptions,
    CompareOptions,
    called,
    in_commands,
)
from segdistill.comparison.plan import checked_plan, choose_seeds, forget_other_teacher
from segdistill.comparison.reading import load_comparison, read_cell, read_plan
from segdistill.comparison.results import Comparison
from segdistill.comparison.table import comparison_table
from segdistill.device import choose_device
from segdistill.errors import UserError, missing_package
from segdistill.files import write_json, write_yaml
from segdistill.locks import alone_in
from segdistill.networks.identity import network_label
from segdistill.progress import duration
from segdistill.recipe.data import build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.recipes import DistillRecipe

#: Columns of the table, where the output is no terminal that has a width of its own.
WIDTH = 140


@takes_fields
def compare(recipe: DistillRecipe, options: CompareOptions) -> Comparison | None:
    """Compare distillation methods with the same student trained alone: same recipe, seeds and batches.

    Every method is trained with every seed into output/cells/METHOD/seed-N and measured on the validation split; its
    difference in mIoU to the student alone is given with a confidence interval over images and seeds. Running the
    command again continues where it was stopped, with more methods or seeds if so wished; a finished run is never
    repeated, and a run that fails does not stop the others. Writes comparison.json and report.html.

    Returns:
        What was found; None after a dry run.

    Raises:
        UserError: a recipe or data that cannot work, or an output folder whose runs were made with another recipe or
            other data.
    """
    names, specs = parse_methods(options.methods, recipe.method)
    seeds = choose_seeds(options.seeds, recipe.seed)
    check_executor(recipe, options)
    data = build_data(recipe.data, recipe.overfit, converting=not options.dry_run)
    images = data.images_per_epoch(recipe.train.batch_size)
    recipe = shared_recipe(replace(recipe, train=recipe.train.in_epochs(images)), data.values, specs)
    folder = Path(options.output)
    plan = checked_plan(folder, recipe, names, seeds, data, options.device, resume=options.resume)
    console = Console(quiet=True) if options.quiet else rich.get_console()
    wide = console if console.is_terminal else Console(quiet=options.quiet, width=WIDTH)
    if options.dry_run:
        wide.print(_cost_table(folder, recipe, plan, options.device), markup=False)
        return None

    if not os.access(folder, os.W_OK) and _is_finished(folder, plan):
        comparison = load_comparison(folder)
        _show(comparison, wide)
        wide.print(f"{folder} cannot be written to, and all of its runs are finished", highlight=False, markup=False)
        return comparison
    with alone_in(folder):
        forget_other_teacher(folder, plan)
        write_json(folder / "plan.json", plan)
        write_yaml(folder / "recipe.yaml", recipe.as_dict())
        _run_all(recipe, folder, plan, options, console)
        comparison = load_comparison(folder)
        write_json(folder / "comparison.json", comparison.as_dict())
        _show(comparison, wide)
        from segdistill.comparison.report import write_report

        write_report(comparison, folder / "report.html", device=options.device, quiet=options.quiet, recipe=recipe)
    wide.print(f"report: {folder / 'report.html'}", highlight=False, markup=False)
    return comparison


def _is_finished(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether a folder holds all runs of a comparison, and no others."""
    old = read_plan(folder)
    if old is None or any(old[key] != plan[key] for key in ("methods", "seeds")):
        return False
    cells = [(name, seed) for name in plan["methods"] for seed in plan["seeds"]]
    cells += [("teacher", -1)] * plan["teacher_scored"]
    return all(read_cell(folder, name, seed, plan).finished for name, seed in cells)


def _show(comparison: Comparison, wide: Console) -> None:
    if wide.is_jupyter:  # a notebook shows what is returned
        return
    wide.print(comparison_table(comparison, wide.width), markup=False)
    for text in (comparison.verdict, *(f"note: {warning}" for warning in comparison.warnings)):
        wide.print(text, highlight=False, markup=False)


def check_executor(recipe: DistillRecipe, options: CellOptions) -> None:
    """Refuse an executor or a device that is not there, before anything is read.

    Raises:
        UserError: ray without its library, with a teacher cache or network objects, or a device that does not exist.
    """
    if options.executor == "ray" and find_spec("ray") is None:
        raise missing_package("executor ray", "ray", "ray")
    if options.executor == "ray" and recipe.teacher_cache is not None:
        raise UserError("teacher_cache does not go with executor ray: runs of one seed would fill its cache at once")
    given = [*(("teacher", one.source) for one in recipe.teachers()), ("student", recipe.student)]
    for role, source in given:
        if options.executor == "ray" and not isinstance(source, str | Path):
            raise UserError(
                f"the {role} is an {network_label(source)}, which executor ray cannot send to other machines; give "
                "a run folder, or a spec such as python:module:function"
            )
    choose_device(options.device)


def _run_all(
    recipe: DistillRecipe, folder: Path, plan: dict[str, Any], options: CompareOptions, console: Console
) -> None:
    """Measure the teacher, and train and measure all cells that are not finished."""
    names, seeds = plan["methods"], plan["seeds"]
    if plan["teacher_scored"]:
        if not read_cell(folder, "teacher", -1, plan).finished:
            measure_teacher(recipe, folder, device=options.device, quiet=options.quiet)
        scores = read_cell(folder, "teacher", -1, plan).evaluation or {}
        console.out(f"teacher {network_label(recipe.teacher)}  val mIoU {scores['miou']:.2f} %", highlight=False)
    # Seed by seed, so that a comparison that is stopped has all methods with the first seeds.
    cells = [(name, number) for number in seeds for name in names if name not in LONGER]
    _run_cells(recipe, folder, cells, plan, options, console)

    def run_cells(own: DistillRecipe, where: Path, wanted: list[tuple[str, int]]) -> None:
        _run_cells(own, where, wanted, plan, options, console)

    for name in LONGER:  # last, when the others have shown how long they are
        if name in names:
            run_longer(name, recipe, folder, plan, run_cells)


def _run_cells(
    recipe: DistillRecipe,
    folder: Path,
    cells: list[tuple[str, int]],
    plan: dict[str, Any],
    options: CellOptions,
    console: Console,
) -> None:
    """Trains and measures the cells that are not finished."""
    left = [(name, seed) for name, seed in cells if not read_cell(folder, name, seed, plan).finished]

    def tell(name: str, seed: int) -> None:
        cell = read_cell(folder, name, seed, plan)
        if cell.error is not None:
            console.out(f"{called(name)}, seed {seed} failed: {cell.error}", highlight=False)
        elif options.executor == "ray" and cell.evaluation is not None:
            console.out(f"{called(name)}, seed {seed}  val mIoU {cell.evaluation['miou']:.2f} %", highlight=False)

    if options.executor == "ray":
        gpus, cpus = options.gpus_per_cell, options.cpus_per_cell
        gpus = float(choose_device(options.device).type == "cuda") if gpus is None else gpus
        run_on_ray(recipe, folder, left, device=options.device, cpus=cpus, gpus=gpus, done=tell)
        return
    for index, (name, seed) in enumerate(left):
        console.rule(f"{called(name)}, seed {seed} ({index + 1} of {len(left)})")
        run_cell(recipe, folder, name, seed, device=options.device, quiet=console.quiet)
        tell(name, seed)


def _cost_table(folder: Path, recipe: DistillRecipe, plan: dict[str, Any], device: str) -> Table:
    """Cells and about how long they will take, without validations."""
    known = finished_seconds(folder, plan)
    cost = {
        name: known[name] if name in known else cell_cost(recipe, name, device=device).seconds(recipe.train)
        for name in plan["methods"]
        if name not in LONGER
    }
    longer = [name for name in plan["methods"] if name in LONGER]
    cost |= {name: known.get(name, estimated_seconds(name, cost)) for name in longer}
    table = Table(title="runs to train", title_justify="left")
    for heading in ("method", "seeds", "finished", "time each", "estimated from", "time left"):
        table.add_column(heading, justify="left" if heading in ("method", "estimated from") else "right")
    left = 0.0
    for name in plan["methods"]:
        finished = len(finished_cells(folder, name, plan))
        rest = cost[name] * (len(plan["seeds"]) - finished)
        left += rest
        guessed = {EQUAL_TIME: "the slowest method", PLATEAU: f"at least twice {called(BASELINE)}"}.get(
            name, "a few steps"
        )
        source = "finished runs" if name in known else guessed
        table.add_row(
            called(name), str(len(plan["seeds"])), str(finished), duration(cost[name]), source, duration(rest)
        )
    table.add_section()
    table.add_row("all", "", "", "", "", duration(left))
    table.caption = f"training only, without validations and the teacher cache; {in_commands(plan['methods'])}"
    table.caption_justify = "left"
    return table
