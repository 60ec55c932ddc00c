"""`segdistill.compare`: methods and the student alone by one recipe over several seeds; is there a gain, is it real?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison import verdict
from segdistill.comparison.cells import (
    SharedRecipe,
    equal_time_recipe,
    hyper_parameters,
    is_alone,
    measure_teacher,
    parse_methods,
    run_cell,
)
from segdistill.comparison.cost import cell_cost
from segdistill.comparison.on_ray import run_on_ray
from segdistill.comparison.plan import checked_plan, choose_seeds, forget_other_teacher
from segdistill.comparison.results import (
    BASELINE,
    EQUAL_TIME,
    Cell,
    Comparison,
    Row,
    Summary,
    cell_folder,
    load_comparison,
    read_cell,
)
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.files import write_json, write_yaml
from segdistill.metrics.scores import percent
from segdistill.progress import duration
from segdistill.recipe import MethodSpec, build_data
from segdistill.run_folder import RunFolder
from segdistill.training.config import TrainConfig

#: Columns of the table, where the output is no terminal that has a width of its own.
WIDTH = 140


def compare(
    *,
    data: dict[str, Any],
    teacher: str | Path,
    student: str,
    output: str | Path,
    methods: list[str] | str = "none,kd,brd",
    seeds: list[int] | int = 3,
    method: MethodSpec | None = None,
    train: TrainConfig = TrainConfig(),
    teacher_weights: str | None = None,
    init_weights: str | None = None,
    loss_weights: dict[str, float] | Literal["fixed", "auto"] = "fixed",
    views: int | None = None,
    ignored: Literal["skip", "distil"] = "skip",
    seed: int = 0,
    device: str = "auto",
    teacher_cache: str | Path | None = None,
    executor: Literal["local", "ray"] = "local",
    cpus_per_cell: int = 1,
    gpus_per_cell: float | None = None,
    dry_run: bool = False,
    resume: bool = True,
    quiet: bool = False,
) -> Comparison | None:
    """Holds distillation methods against the same student alone: same recipe, same seeds, same batches; is it a gain?

    Every method is trained with every seed into output/cells/METHOD/seed-N, measured on the validation split, and the
    difference in mIoU to the student alone is given with a confidence interval over images and seeds. Running it again
    goes on where it was stopped, with more methods or seeds if so wished; what is finished is never done again, and a
    cell that fails does not stop the others. Writes comparison.json and report.html.

    Args:
        data: the data set and its augmentation, e.g. {dataset: camvid, root: data/camvid, crop: [352, 480]}.
        teacher: a run folder, or a network spec with --teacher_weights.
        student: the network to train, e.g. smp:FPN:tu-mobilenetv3_small_050.
        output: folder of the comparison.
        methods: methods with commas between, + for several at once: none,kd,kd+brd. none is the student alone, which
            must be among them; none@time the student alone, trained for as many seconds as the dearest method took.
        seeds: how many seeds, from seed on, or a list of them; three or more tell whether another would agree.
        method: hyper-parameters of methods that shall not have their defaults, {brd: {boundary: 2.0}}; what the recipe
            of a single run says here is understood.
        train: how to train.
        teacher_weights: a .safetensors or .pth file with the weights of a teacher that is given as a spec.
        init_weights: none, "imagenet" (downloads the backbone's), or a .safetensors or .pth file to start from.
        loss_weights: factors of the loss terms by name, see segdistill distill.
        views: how many views of each image the augmentation gives, shown in turn; null for a new one every epoch.
        ignored: whether pixels with the ignore label are left out of distillation ("skip") or not ("distil").
        seed: the first seed.
        device: auto, cpu, cuda, cuda:N or mps.
        teacher_cache: folder for what the teacher says of every view, kept for each seed; needs views.
        executor: local trains one cell after another; ray (needs segdistill[ray]) as many at once as a Ray cluster, or
            this machine where RAY_ADDRESS names none, has room for.
        cpus_per_cell: cores of a cell, with ray.
        gpus_per_cell: GPUs of a cell, with ray; 1 by default on cuda; 0.5 lets two share one.
        dry_run: only say what cells there are and about how long they will take.
        resume: go on with the comparison in the output folder; false refuses a folder that holds one.
        quiet: print nothing.

    Returns:
        What was found; None after a dry run.

    Raises:
        UserError: for a recipe or data that cannot work, or an output folder whose runs were made with another recipe
            or other data.
    """
    names = parse_methods(methods)
    chosen = choose_seeds(seeds, seed)
    share = Share(executor, device, cpus_per_cell, gpus_per_cell)
    share.check_cache(teacher_cache, views)
    sets = build_data(data, converting=not dry_run)
    recipe = SharedRecipe(
        data=sets.values,
        teacher=str(teacher),
        student=student,
        train=train,
        method=hyper_parameters(method),
        teacher_weights=teacher_weights,
        init_weights=init_weights,
        loss_weights=loss_weights,
        views=views,
        ignored=ignored,
        teacher_cache=None if teacher_cache is None else str(teacher_cache),
    )
    folder = Path(output)
    plan = checked_plan(folder, recipe, names, chosen, sets, device, resume=resume)
    console = Console(quiet=True) if quiet else rich.get_console()
    wide = console if console.is_terminal else Console(quiet=quiet, width=WIDTH)
    if dry_run:
        wide.print(_cost_table(folder, recipe, plan, device))
        return None

    forget_other_teacher(folder, plan)
    write_json(folder / "plan.json", plan)
    write_yaml(folder / "recipe.yaml", recipe.as_dict())
    if not read_cell(folder, "teacher", -1, plan).finished:
        measure_teacher(recipe, folder, device=device, quiet=quiet)
    scores = read_cell(folder, "teacher", -1, plan).evaluation or {}
    console.out(f"teacher {teacher}  val mIoU {scores['miou']:.2f}", highlight=False)
    # Seed by seed, so that a comparison that is stopped has all methods with the first seeds.
    cells = [(name, number) for number in chosen for name in names if name != EQUAL_TIME]
    _run_cells(recipe, folder, cells, plan, share, console)
    if EQUAL_TIME in names:  # last, when the others have shown how long it is
        stretched = equal_time_recipe(recipe, _equal_time_epochs(folder, recipe, plan))
        _run_cells(stretched, folder, [(EQUAL_TIME, number) for number in chosen], plan, share, console)

    comparison = load_comparison(folder)
    write_json(folder / "comparison.json", comparison.as_dict())
    wide.print(comparison_table(comparison))
    for text in (comparison.verdict, *(f"note: {warning}" for warning in comparison.warnings)):
        wide.print(text, highlight=False, markup=False)
    from segdistill.comparison.report import write_report

    write_report(comparison, folder / "report.html", device=device, quiet=quiet)
    wide.print(f"report: {folder / 'report.html'}", highlight=False, markup=False)
    return comparison


@dataclass(frozen=True)
class Share:
    """What cells run on; see `compare` for the options.

    Raises:
        UserError: for a number that cannot be, a device that is not there, or ray where it is not installed.
    """

    executor: Literal["local", "ray"]
    device: str
    cpus: int
    gpus: float | None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise UserError(f"cpus_per_cell is {self.cpus}, expected at least 1")
        if self.gpus is not None and self.gpus < 0:
            raise UserError(f"gpus_per_cell is {self.gpus}, expected 0 or more")
        if self.executor == "ray" and find_spec("ray") is None:
            raise UserError("executor ray needs the ray library: pip install 'segdistill[ray]'")
        choose_device(self.device)

    def check_cache(self, teacher_cache: str | Path | None, views: int | None) -> None:
        """Refuses a teacher cache that could not be filled.

        Raises:
            UserError: without views, or with ray.
        """
        if teacher_cache is not None and views is None:
            raise UserError(
                "teacher_cache needs views: how many views of each image to keep and show in turn, e.g. --views 4"
            )
        if teacher_cache is not None and self.executor == "ray":
            raise UserError(
                "teacher_cache does not go with executor ray: cells of one seed would fill its cache at once"
            )


def _run_cells(
    recipe: SharedRecipe,
    folder: Path,
    cells: list[tuple[str, int]],
    plan: dict[str, Any],
    share: Share,
    console: Console,
) -> None:
    """Trains and measures the cells that are not finished."""
    left = [(name, seed) for name, seed in cells if not read_cell(folder, name, seed, plan).finished]

    def tell(name: str, seed: int) -> None:
        cell = read_cell(folder, name, seed, plan)
        if cell.error is not None:
            console.out(f"{name}, seed {seed} failed: {cell.error}", highlight=False)
        elif share.executor == "ray" and cell.evaluation is not None:
            console.out(f"{name}, seed {seed}  val mIoU {cell.evaluation['miou']:.2f}", highlight=False)

    if share.executor == "ray":
        gpus = float(choose_device(share.device).type == "cuda") if share.gpus is None else share.gpus
        run_on_ray(recipe, folder, left, device=share.device, cpus=share.cpus, gpus=gpus, done=tell)
        return
    for index, (name, seed) in enumerate(left):
        console.rule(f"{name}, seed {seed} ({index + 1} of {len(left)})")
        run_cell(recipe, folder, name, seed, device=share.device, quiet=console.quiet)
        tell(name, seed)


def comparison_table(comparison: Comparison) -> Table:
    """All methods as a table for the terminal."""
    level = next((row.difference.level for row in comparison.rows if row.difference is not None), 0.95)
    table = Table(
        title=f"{len(comparison.ids)} validation images",
        title_justify="left",
        caption=(
            f"mIoU: mean (least to most over seeds); in brackets behind difference and gap {100 * level:g}% intervals; "
            "BIoU: boundary IoU; connect.: connectivity error, 0 is best; all in %"
        ),
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for heading in ("mIoU", "minus none", "gap closed", "BIoU", "connect.", "train s"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in comparison.rows:
        table.add_row(*_cells_of(row))
    table.add_section()
    table.add_row(*_cells_of(comparison.teacher))
    return table


def _cells_of(row: Row) -> list[str]:
    difference = ""
    if row.difference is not None:
        found = row.difference
        difference = f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
    return [
        row.method,
        _spread(row.miou),
        difference,
        "" if row.difference is None or row.method == "teacher" else verdict.closure(row.gap),
        "" if row.boundary_iou is None else f"{row.boundary_iou.mean:.2f}",
        "" if row.connectivity_error is None else f"{row.connectivity_error.mean:.2f}",
        "" if row.seconds is None else f"{row.seconds:.0f}",
        row.verdict,
    ]


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return ""
    if len(summary.runs) == 1:
        return percent(summary.mean)
    return f"{summary.mean:.2f} ({summary.least:.2f} to {summary.most:.2f})"


def _equal_time_epochs(folder: Path, recipe: SharedRecipe, plan: dict[str, Any]) -> int:
    """Epochs in which the student alone trains for as long as the dearest method did; those once chosen are kept."""
    for seed in plan["seeds"]:
        begun = RunFolder(cell_folder(folder, EQUAL_TIME, seed))
        if begun.config_file.exists():
            return int(begun.read_config()["train"]["epochs"])
    seconds = _finished_seconds(folder, plan)
    epochs = [cell.epochs for cell in _finished(folder, BASELINE, plan) if cell.epochs is not None]
    dearest = max((spent for name, spent in seconds.items() if not is_alone(name)), default=None)
    if dearest is None or not seconds.get(BASELINE):
        return recipe.train.epochs
    return max(recipe.train.epochs, round(dearest / seconds[BASELINE] * sum(epochs) / len(epochs)))


def _finished(folder: Path, method: str, plan: dict[str, Any]) -> list[Cell]:
    cells = [read_cell(folder, method, seed, plan) for seed in plan["seeds"]]
    return [cell for cell in cells if cell.finished]


def _finished_seconds(folder: Path, plan: dict[str, Any]) -> dict[str, float]:
    """Mean training seconds of the finished cells, by method."""
    found = {}
    for name in plan["methods"]:
        seconds = [cell.seconds for cell in _finished(folder, name, plan) if cell.seconds is not None]
        if seconds:
            found[name] = sum(seconds) / len(seconds)
    return found


def _cost_table(folder: Path, recipe: SharedRecipe, plan: dict[str, Any], device: str) -> Table:
    """Cells and about how long they will take, without validations."""
    known = _finished_seconds(folder, plan)
    cost = {
        name: known[name] if name in known else cell_cost(recipe, name, device=device).seconds(recipe.train.epochs)
        for name in plan["methods"]
        if name != EQUAL_TIME
    }
    if EQUAL_TIME in plan["methods"]:
        cost[EQUAL_TIME] = known.get(EQUAL_TIME, max(cost.values()))
    table = Table(title="cells to train", title_justify="left")
    for heading in ("method", "seeds", "finished", "time each", "from", "time left"):
        table.add_column(heading, justify="left" if heading in ("method", "from") else "right")
    left = 0.0
    for name in plan["methods"]:
        finished = len(_finished(folder, name, plan))
        rest = cost[name] * (len(plan["seeds"]) - finished)
        left += rest
        source = "finished cells" if name in known else "the dearest method" if name == EQUAL_TIME else "a few steps"
        table.add_row(name, str(len(plan["seeds"])), str(finished), duration(cost[name]), source, duration(rest))
    table.add_section()
    table.add_row("all", "", "", "", "", duration(left))
    table.caption = "training alone, without validations and the teacher cache"
    table.caption_justify = "left"
    return table
