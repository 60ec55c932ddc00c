"""`segdistill.advise`: which method to train with? Short runs of all, longer ones of the best: successive halving."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison.advice import Advice, Rung, advice, read_rung, rung_epochs, survivors
from segdistill.comparison.cells import SharedRecipe, hyper_parameters, parse_methods
from segdistill.comparison.compare import WIDTH, Share, compare
from segdistill.comparison.cost import CellCost, cell_cost
from segdistill.comparison.plan import checked_plan, choose_seeds
from segdistill.comparison.results import BASELINE, EQUAL_TIME, load_comparison, read_cell, read_plan
from segdistill.comparison.statistics import Difference
from segdistill.comparison.verdict import epochs_told
from segdistill.errors import UserError
from segdistill.files import write_json, write_yaml
from segdistill.methods import METHODS
from segdistill.progress import duration
from segdistill.recipe import Data, MethodSpec, build_data
from segdistill.training.config import TrainConfig


def advise(
    *,
    data: dict[str, Any],
    teacher: str | Path,
    student: str,
    output: str | Path,
    methods: list[str] | str | None = None,
    seeds: list[int] | int = 1,
    rungs: int = 3,
    eta: int = 3,
    budget: float | None = None,
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
) -> Advice | None:
    """Tries methods in short runs, the best of them in longer ones, and recommends one, or the student alone.

    Successive halving: each rung is a comparison in output/rung-N, with the recipe's schedule over fewer epochs; of its
    methods the best 1/eta by mIoU go on to runs eta times as long. The student alone is trained in every rung, and what
    is recommended follows from the interval of the best method's difference to it in the last one. Running it again
    goes on where it was stopped; finished runs are never done again. Writes advice.json and report.html.

    Args:
        data: the data set and its augmentation, as in segdistill compare.
        teacher: a run folder, or a network spec with --teacher_weights.
        student: the network to train, e.g. smp:FPN:tu-mobilenetv3_small_050.
        output: folder for all of it.
        methods: methods with commas between, + for several at once; all by default. With none@time the last rung also
            trains the student alone for as many seconds as the dearest method took.
        seeds: how many seeds, from seed on, or a list of them; in every rung.
        rungs: how many at most, the last one being the whole recipe.
        eta: each rung has runs so many times as long as the one before, and the best 1/eta of its methods, at least 2.
        budget: minutes of training, in all; a rung that is estimated to go beyond it is not begun.
        method: hyper-parameters of methods that shall not have their defaults, {brd: {boundary: 2.0}}.
        train: how to train; its epochs are those of the last rung.
        teacher_weights: a .safetensors or .pth file with the weights of a teacher that is given as a spec.
        init_weights: none, "imagenet" (downloads the backbone's), or a .safetensors or .pth file to start from.
        loss_weights: factors of the loss terms by name, see segdistill distill.
        views: how many views of each image the augmentation gives, shown in turn; null for a new one every epoch.
        ignored: whether pixels with the ignore label are left out of distillation ("skip") or not ("distil").
        seed: the first seed.
        device: auto, cpu, cuda, cuda:N or mps.
        teacher_cache: folder for what the teacher says of every view, kept for each seed; needs views.
        executor: local or ray, as in segdistill compare.
        cpus_per_cell: cores of a run, with ray.
        gpus_per_cell: GPUs of a run, with ray.
        dry_run: only say what rungs there are and about how long they will take.
        resume: go on with what is in the output folder; false refuses a folder that holds advice.
        quiet: print nothing.

    Returns:
        What is recommended, and why; None after a dry run.

    Raises:
        UserError: for a recipe or data that cannot work, an output folder that holds something else or runs of another
            recipe, a budget too small for the first rung, or where the student alone or every method failed.
    """
    for name, value, least in (("rungs", rungs, 1), ("eta", eta, 2)):
        if value < least:
            raise UserError(f"{name} is {value}, expected at least {least}")
    if budget is not None and not 0 < budget < math.inf:
        raise UserError(f"budget is {budget:g}, expected minutes, above 0")
    asked = _asked(methods)
    candidates, timed = tuple(name for name in asked if name != EQUAL_TIME), EQUAL_TIME in asked
    chosen = choose_seeds(seeds, seed)
    Share(executor, device, cpus_per_cell, gpus_per_cell).check_cache(teacher_cache, views)
    folder = Path(output)
    _check_folder(folder)
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
    lengths = rung_epochs(train.epochs, rungs, eta)
    if len(candidates) == 1:
        lengths = lengths[-1:]  # there is nothing to choose between
    ladder = _Ladder(folder, recipe, chosen, device)
    console = Console(quiet=True) if quiet else rich.get_console()
    wide = console if console.is_terminal else Console(quiet=quiet, width=WIDTH)
    if dry_run:
        wide.print(_cost_table(ladder, sets, lengths, candidates, timed, eta, resume))
        return None

    keys = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    found: list[Rung] = []
    ended = None
    for number, epochs in enumerate(lengths, 1):
        last = epochs == lengths[-1]
        if len(candidates) == 1 and not last:
            continue
        names = [BASELINE, *candidates, *[EQUAL_TIME] * (timed and last)]
        cost = ladder.cost(number, epochs, names) if budget is not None else None
        gone = sum(rung.seconds for rung in found)
        if budget is not None and cost is not None and cost.left and gone + cost.done + cost.left > 60 * budget:
            needed = (
                f"{len(names) * len(chosen)} runs of {epochs_told(epochs)} would take about {duration(cost.left)} more"
            )
            if not found:
                raise UserError(
                    f"budget is {budget:g} min, but in the first rung {needed}; give more, fewer methods, or more rungs"
                )
            ended = f"the budget of {budget:g} min ended it after {duration(gone)}: {needed}"
            break
        console.rule(f"rung {number} of {len(lengths)}: {', '.join(candidates)}, {epochs_told(epochs)}")
        comparison = compare(
            **keys
            | {
                "train": replace(train, epochs=epochs),
                "output": ladder.rung(number),
                "methods": names,
                "seeds": list(chosen),
                "device": device,
                "executor": executor,
                "cpus_per_cell": cpus_per_cell,
                "gpus_per_cell": gpus_per_cell,
                "resume": resume,
                "quiet": quiet,
            }
        )
        assert comparison is not None  # it is no dry run
        found.append(read_rung(comparison, epochs, 1 if last else survivors(len(candidates), eta)))
        candidates = found[-1].kept

    write_yaml(folder / "recipe.yaml", recipe.as_dict())
    command = ["segdistill", "advise", str(folder / "recipe.yaml"), "--methods", ",".join(asked)]
    command += ["--seeds", str(list(chosen)), "--rungs", str(rungs), "--eta", str(eta), "--output", str(folder)]
    command += [] if budget is None else ["--budget", f"{budget:g}"]
    result = advice(folder, found, full=train.epochs, ended=ended, command=shlex.join(command))
    write_json(folder / "advice.json", result.as_dict())
    wide.print(advice_table(result))
    for text in (result.text, *(f"note: {note}" for note in result.notes)):
        wide.print(text, highlight=False, markup=False)
    from segdistill.comparison.advice_page import write_advice

    write_advice(result, folder / "report.html")
    wide.print(f"report: {folder / 'report.html'}", highlight=False, markup=False)
    return result


def _asked(methods: list[str] | str | None) -> tuple[str, ...]:
    """The methods to try, without the student alone, which is always there."""
    given = list(METHODS) if methods is None else methods.split(",") if isinstance(methods, str) else methods
    names = [name for name in given if name.strip() != BASELINE]
    return tuple(name for name in parse_methods([BASELINE, *names]) if name != BASELINE)


def _check_folder(folder: Path) -> None:
    """Refuses a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file, expected a folder")
    if folder.exists() and any(folder.iterdir()) and read_plan(folder / "rung-1") is None:
        raise UserError(f"output folder {folder} is not empty and holds no advice; choose a new folder")


@dataclass(frozen=True)
class _Cost:
    """Seconds of training of a rung: of its finished runs, and about those of the others."""

    done: float
    left: float


class _Ladder:
    """What the rungs in a folder cost: measured where there are finished runs, else estimated from a few steps."""

    def __init__(self, folder: Path, recipe: SharedRecipe, seeds: tuple[int, ...], device: str) -> None:
        self.folder, self.recipe, self.seeds, self.device = folder, recipe, seeds, device
        self._estimates: dict[str, CellCost] = {}

    def rung(self, number: int) -> Path:
        """Folder of a rung's comparison; numbers begin at 1."""
        return self.folder / f"rung-{number}"

    def cost(self, number: int, epochs: int, names: Sequence[str]) -> _Cost:
        """Of a rung with these methods, ``none`` among them."""
        done = left = 0.0
        plan = read_plan(self.rung(number))
        for name in names:
            for seed in self.seeds:
                cell = None if plan is None else read_cell(self.rung(number), name, seed, plan)
                if cell is not None and cell.finished:
                    done += cell.seconds or 0.0
                elif name == EQUAL_TIME:
                    left += max(self.each(number, epochs, other) for other in names if other != EQUAL_TIME)
                else:
                    left += self.each(number, epochs, name)
        return _Cost(done, left)

    def each(self, number: int, epochs: int, name: str) -> float:
        """About how long one run takes, as seen in this rung or an earlier one, or in a few steps."""
        for earlier in range(number, 0, -1):
            plan = read_plan(self.rung(earlier))
            cells = [] if plan is None else [read_cell(self.rung(earlier), name, seed, plan) for seed in self.seeds]
            seen = [cell.seconds / cell.epochs for cell in cells if cell.seconds is not None and cell.epochs]
            if seen:
                return epochs * sum(seen) / len(seen)
        if name not in self._estimates:
            self._estimates[name] = cell_cost(self.recipe, name, device=self.device)
        return self._estimates[name].seconds(epochs)


def _cost_table(
    ladder: _Ladder, sets: Data, lengths: Sequence[int], names: tuple[str, ...], timed: bool, eta: int, resume: bool
) -> Table:
    """Rungs and about how long they will take, without validations."""
    table = Table(title="rungs", title_justify="left")
    for heading in ("rung", "epochs", "methods", "runs", "time left"):
        table.add_column(heading, justify="left" if heading == "methods" else "right")
    total, known = 0.0, True
    count = len(names)
    for number, epochs in enumerate(lengths, 1):
        last = epochs == lengths[-1]
        if count == 1 and not last:
            continue
        alone = [BASELINE, *[EQUAL_TIME] * (timed and last)]
        if known:
            recipe = replace(ladder.recipe, train=replace(ladder.recipe.train, epochs=epochs))
            every = (*alone, *names)
            checked_plan(ladder.rung(number), recipe, every, ladder.seeds, sets, ladder.device, resume=resume)
            cost = ladder.cost(number, epochs, every)
        else:  # which ones they will be is not known; the dearest may be among them
            dearest = sorted(names, key=lambda name: -ladder.each(number, epochs, name))[:count]
            cost = ladder.cost(number, epochs, (*alone, *dearest))
        total += cost.left
        which = ", ".join(names) if known else f"the best {count} of {len(names)}"
        runs = len(ladder.seeds) * (count + len(alone))
        table.add_row(str(number), str(epochs), f"{', '.join(alone)}; {which}", str(runs), duration(cost.left))
        keep = 1 if last else survivors(count, eta)
        known = known and not cost.left
        if known:
            names = read_rung(load_comparison(ladder.rung(number)), epochs, keep).kept
        count = keep
    table.add_section()
    table.add_row("all", "", "", "", duration(total))
    table.caption = "training alone, without validations and the teacher cache; later rungs as if the dearest went on"
    table.caption_justify = "left"
    return table


def advice_table(found: Advice) -> Table:
    """All rungs as a table for the terminal."""
    table = Table(title="rungs, the longest runs last", title_justify="left")
    table.add_column("epochs", justify="right")
    table.add_column("method", no_wrap=True)
    for heading in ("mIoU", "minus none", "minus the best", "train s"):
        table.add_column(heading, justify="right")
    table.add_column("then")
    for rung in found.rungs:
        for index, one in enumerate(rung.standings):
            table.add_row(
                str(rung.epochs) if index == 0 else "",
                one.method,
                "" if one.miou is None else f"{one.miou:.2f}",
                _interval(one.difference),
                _interval(one.to_best),
                "" if one.seconds is None else f"{one.seconds:.0f}",
                one.said,
            )
        table.add_section()
    table.caption = "mIoU in %; in brackets 95% intervals"
    table.caption_justify = "left"
    return table


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.difference:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
