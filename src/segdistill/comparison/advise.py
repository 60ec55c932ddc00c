"""`segdistill.advise`: which method to train with? Short runs of all, longer ones of the best: successive halving."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison.advice import Advice, Rung, advice, read_rung, rung_lengths, survivors
from segdistill.comparison.compare import WIDTH, check_executor, compare
from segdistill.comparison.cost import CellCost, cell_cost
from segdistill.comparison.longer import estimated_seconds
from segdistill.comparison.methods import Specs, cell_recipe, is_alone, parse_methods, shared_recipe
from segdistill.comparison.options import (
    BASELINE,
    LONGER,
    PSEUDO,
    AdviseOptions,
    CellOptions,
    CompareOptions,
    called,
    in_commands,
)
from segdistill.comparison.plan import checked_plan, choose_seeds, misfits
from segdistill.comparison.reading import load_comparison, read_cell, read_plan
from segdistill.comparison.statistics import Difference
from segdistill.comparison.table import narrow_table
from segdistill.comparison.verdict import length_told
from segdistill.errors import UserError
from segdistill.files import write_json, write_yaml
from segdistill.locks import alone_in, is_free
from segdistill.methods import METHODS
from segdistill.methods.building import build_methods
from segdistill.progress import duration
from segdistill.recipe.data import Data, build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.recipes import DistillRecipe

#: What is tried first where no methods are named: one or two of each family, simple ones that cost little.
REPRESENTATIVES = ("auto", "kd", "cwd", "feature", "at", "drd", "skd", "brd")


@takes_fields
def advise(recipe: DistillRecipe, options: AdviseOptions) -> Advice | None:
    """Try methods in short runs, the best of them in longer runs; recommend a method or the student alone.

    Successive halving: each rung is a comparison in output/rung-N, with the recipe's schedule over fewer epochs; the
    best 1/eta of its methods by mIoU are kept for runs eta times as long. Where no methods are named, the first rung is
    of `REPRESENTATIVES` of every family and the methods of the recipe; where a rung follows that is not the last, all
    others of the best one's family compete there for the same places. The student alone is trained in every rung,
    and the recommendation follows from the interval of the best method's difference to it in the last one. Running the
    command again continues where it was stopped; finished runs are never repeated. Writes advice.json and report.html.

    Returns:
        What is recommended, and why; None after a dry run.

    Raises:
        UserError: a recipe or data that cannot work, an output folder that holds something else or runs of another
            recipe, a budget too small for the first rung, or where the student alone or every method failed.
    """
    asked, specs = _asked(options.methods, recipe.method)
    if PSEUDO in asked:
        cell_recipe(recipe, PSEUDO, recipe.seed)  # which refuses data without unlabelled images
    candidates = tuple(name for name in asked if not is_alone(name))
    seeds = choose_seeds(options.seeds, recipe.seed)
    check_executor(recipe, options)
    folder = Path(options.output)
    _check_folder(folder)
    data = build_data(recipe.data, recipe.overfit, converting=not options.dry_run)
    images = data.images_per_epoch(recipe.train.batch_size)
    recipe = shared_recipe(replace(recipe, train=recipe.train.in_epochs(images)), data.values, specs)
    console = Console(quiet=True) if options.quiet else rich.get_console()
    misfit: tuple[str, ...] = ()
    if options.methods is None:  # whichever of them the second rung may need
        misfit = _left_out(recipe, data, candidates, console)
        candidates = tuple(name for name in candidates if name not in misfit)
    lengths = rung_lengths(recipe.train.length, options.rungs, options.eta)
    if len(candidates) == 1:
        lengths = lengths[-1:]  # there is nothing to choose between
    widening = options.methods is None and len(lengths) > 2
    ladder = _Ladder(recipe, options, seeds, candidates, tuple(filter(is_alone, asked)), widening, misfit)
    wide = console if console.is_terminal else Console(quiet=options.quiet, width=WIDTH)
    if options.dry_run:
        wide.print(_cost_table(ladder, data, lengths), markup=False)
        return None

    with alone_in(folder):
        found, ended = _climb(ladder, lengths, console)
        result = _recommended(ladder, found, ended, asked)
    wide.print(advice_table(result), markup=False)
    for text in (result.text, *(f"note: {note}" for note in result.notes)):
        wide.print(text, highlight=False, markup=False)
    wide.print(f"report: {folder / 'report.html'}", highlight=False, markup=False)
    return result


def _recommended(ladder: _Ladder, found: list[Rung], ended: str | None, asked: Sequence[str]) -> Advice:
    """What follows from the rungs, written into the folder."""
    folder, recipe, options = ladder.folder, ladder.recipe, ladder.options
    write_yaml(folder / "recipe.yaml", recipe.as_dict())
    command = ["segdistill", "advise", str(folder / "recipe.yaml")]
    command += [] if options.methods is None else ["--methods", ",".join(asked)]
    command += ["--seeds", str(list(ladder.seeds)), "--rungs", str(options.rungs), "--eta", str(options.eta)]
    command += ["--output", str(folder)] + ([] if options.budget is None else ["--budget", f"{options.budget:g}"])
    result = advice(folder, found, full=recipe.train.length, ended=ended, command=shlex.join(command))
    write_json(folder / "advice.json", result.as_dict())
    from segdistill.comparison.advice_page import write_advice

    write_advice(result, folder / "report.html")
    return result


def _climb(ladder: _Ladder, lengths: Sequence[int], console: Console) -> tuple[list[Rung], str | None]:
    """Run one rung after another.

    Returns:
        What each rung found, and why it ended before the last one, if it did.
    """
    options, candidates = ladder.options, ladder.candidates
    places = len(candidates)
    found: list[Rung] = []
    for number, length in enumerate(lengths, 1):
        last = length == lengths[-1]
        if len(candidates) == 1 and not last:
            continue
        names = [BASELINE, *candidates, *(ladder.longer if last else ())]
        ended = ladder.over_budget(number, length, names, sum(rung.seconds for rung in found))
        if ended is not None:
            return found, ended
        console.rule(f"rung {number} of {len(lengths)}: {', '.join(candidates)}, {ladder.told(length)}")
        comparison = compare(ladder.recipe_of(length), ladder.compare_options(number, names))
        assert comparison is not None  # it is no dry run
        places = 1 if last else survivors(places, options.eta)
        found.append(read_rung(comparison, length, ladder.unit, places))
        candidates = found[-1].kept
        if number == 1:
            candidates += ladder.kin(candidates[0])
    return found, None


def _asked(methods: str | list[Any] | None, given: Any) -> tuple[tuple[str, ...], Specs]:
    """The methods to try, without the student alone, which is always there, and how a recipe writes them."""
    if methods is None:
        own = [one for one in build_methods(given) if one.name not in REPRESENTATIVES]
        entries: list[Any] = [*REPRESENTATIVES, *own]
    else:
        entries = methods.split(",") if isinstance(methods, str) else methods
    entries = [entry for entry in entries if not (isinstance(entry, str) and entry.strip() == BASELINE)]
    names, specs = parse_methods([BASELINE, *entries], given)
    return tuple(name for name in names if name != BASELINE), specs


def _left_out(recipe: DistillRecipe, data: Data, candidates: Sequence[str], console: Console) -> tuple[str, ...]:
    """Methods that nobody named and that do not fit teacher and student, such as those on features of many teachers.

    Raises:
        UserError: a method of the recipe does not fit, or none of the others does.
    """
    found = misfits(recipe, data, tuple(dict.fromkeys([*candidates, *METHODS])))
    for name in candidates:
        if name in found and (name not in REPRESENTATIVES or set(candidates) <= set(found)):
            raise found[name]
    if found:
        console.out(f"left out, since they do not fit these networks: {', '.join(found)}", highlight=False)
    return tuple(found)


def _check_folder(folder: Path) -> None:
    """Refuses a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file, expected a folder")
    if not is_free(folder) and read_plan(folder / "rung-1") is None:
        raise UserError(f"output folder {folder} is not empty and holds no advice; choose a new folder")


@dataclass(frozen=True)
class _Cost:
    """Seconds of training of a rung: of its finished runs, and about those of the others."""

    done: float
    left: float


class _Ladder:
    """The rungs in a folder, and what they cost: measured where there are finished runs, else estimated from steps."""

    def __init__(
        self,
        recipe: DistillRecipe,
        options: AdviseOptions,
        seeds: tuple[int, ...],
        candidates: tuple[str, ...],
        longer: tuple[str, ...],
        widening: bool,
        misfit: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.recipe, self.options, self.seeds = Path(options.output), recipe, options, seeds
        self.candidates, self.longer, self.widening = candidates, longer, widening
        self.no_kin = {*candidates, *misfit}
        self._estimates: dict[str, CellCost] = {}

    def kin(self, best: str) -> tuple[str, ...]:
        """The methods of a family that enter the second rung because their representative was the best of the first."""
        if not self.widening or best not in METHODS:
            return ()
        family = METHODS[best].family
        return tuple(name for name, one in METHODS.items() if one.family == family and name not in self.no_kin)

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        """What lengths of runs are counted in."""
        return self.recipe.train.unit

    def told(self, length: int) -> str:
        """A length of runs in words."""
        return length_told(length, self.unit)

    def recipe_of(self, length: int) -> DistillRecipe:
        """The recipe over so many epochs, or steps."""
        return replace(self.recipe, train=self.recipe.train.lasting(length))

    def compare_options(self, number: int, names: list[str]) -> CompareOptions:
        """Of a rung's comparison."""
        shared = {field.name: getattr(self.options, field.name) for field in fields(CellOptions)}
        return CompareOptions(**shared | {"output": self.rung(number), "methods": names, "seeds": list(self.seeds)})

    def over_budget(self, number: int, length: int, names: Sequence[str], spent: float) -> str | None:
        """Why a rung is not begun: the sentence for the advice; None where the budget allows it.

        Raises:
            UserError: the budget is too small even for the first rung.
        """
        budget = self.options.budget
        if budget is None:
            return None
        cost = self.cost(number, length, names)
        if not cost.left or spent + cost.done + cost.left <= 60 * budget:
            return None
        runs = f"{len(names) * len(self.seeds)} runs of {self.told(length)}"
        needed = f"{runs} would take about {duration(cost.left)} more"
        if number == 1:
            raise UserError(
                f"budget is {budget:g} min, but in the first rung {needed}; give more, fewer methods, or more rungs"
            )
        return f"the budget of {budget:g} min ended it after {duration(spent)}: {needed}"

    def rung(self, number: int) -> Path:
        """Folder of a rung's comparison; numbers begin at 1."""
        return self.folder / f"rung-{number}"

    def cost(self, number: int, length: int, names: Sequence[str]) -> _Cost:
        """Of a rung with these methods, ``none`` among them."""
        done = left = 0.0
        plan = read_plan(self.rung(number))
        for name in names:
            for seed in self.seeds:
                cell = None if plan is None else read_cell(self.rung(number), name, seed, plan)
                if cell is not None and cell.finished:
                    done += cell.seconds or 0.0
                elif name in LONGER:
                    others = {other: self.each(number, length, other) for other in names if other not in LONGER}
                    left += estimated_seconds(name, others)
                else:
                    left += self.each(number, length, name)
        return _Cost(done, left)

    def each(self, number: int, length: int, name: str) -> float:
        """About how long one run takes, as seen in this rung or an earlier one, or in a few steps."""
        for earlier in range(number, 0, -1):
            plan = read_plan(self.rung(earlier))
            cells = [] if plan is None else [read_cell(self.rung(earlier), name, seed, plan) for seed in self.seeds]
            timed = [(cell.seconds, cell.length_in(self.unit)) for cell in cells]
            seen = [seconds / trained for seconds, trained in timed if seconds is not None and trained]
            if seen:
                return length * sum(seen) / len(seen)
        if name not in self._estimates:
            self._estimates[name] = cell_cost(self.recipe, name, device=self.options.device)
        return self._estimates[name].seconds(self.recipe_of(length).train)


def _cost_table(ladder: _Ladder, data: Data, lengths: Sequence[int]) -> Table:
    """Rungs and about how long they will take, without validations."""
    names, options = ladder.candidates, ladder.options
    table = Table(title="rungs: rounds of training runs, each longer than the one before", title_justify="left")
    for heading in ("rung", ladder.unit, "methods", "runs", "time left"):
        table.add_column(heading, justify="left" if heading == "methods" else "right")
    total, known = 0.0, True
    count = places = len(names)
    for number, length in enumerate(lengths, 1):
        last = length == lengths[-1]
        if count == 1 and not last:
            continue
        alone = [BASELINE, *(ladder.longer if last else ())]
        if known:
            every = (*alone, *names)
            where, device = ladder.rung(number), options.device
            checked_plan(where, ladder.recipe_of(length), every, ladder.seeds, data, device, resume=options.resume)
            cost = ladder.cost(number, length, every)
        else:  # which ones they will be is not known; the slowest may be among them
            pool = {*names, *[kin for name in names for kin in ladder.kin(name)]}
            slowest = sorted(pool, key=lambda name: -ladder.each(number, length, name))[:count]
            cost = ladder.cost(number, length, (*alone, *slowest))
        total += cost.left
        which = ", ".join(names) if known else f"the best {min(count, places)} of {len(names)}"
        if not known and count > places:
            which += f", and up to {count - places} of the best one's family"
        runs = len(ladder.seeds) * (count + len(alone))
        table.add_row(
            str(number), str(length), f"{', '.join(map(called, alone))}; {which}", str(runs), duration(cost.left)
        )
        places = 1 if last else survivors(places, options.eta)
        known = known and not cost.left
        if known:
            names = read_rung(load_comparison(ladder.rung(number)), length, ladder.unit, places).kept
            names += ladder.kin(names[0]) if number == 1 else ()
        count = places
        if number == 1:
            count = len(names) if known else places + max(len(ladder.kin(name)) for name in names)
    table.add_section()
    table.add_row("all", "", "", "", duration(total))
    table.caption = (
        "training only, without validations and the teacher cache; later rungs as if the slowest methods were kept; "
        + in_commands((BASELINE, *ladder.longer))
    )
    table.caption_justify = "left"
    return table


def advice_table(found: Advice) -> Table:
    """All rungs as a table for the terminal."""
    names = in_commands(one.method for one in found.rungs[-1].standings)
    caption = f"mIoU in %; gains in points, with 95 % intervals in brackets; {names}"
    table = narrow_table("rungs, the longest runs last", caption)
    table.add_column(found.rungs[0].unit, justify="right")
    table.add_column("method", overflow="fold")
    for heading in ("mIoU", "gain over student alone", "gain over the best", "training s"):
        table.add_column(heading, justify="right")
    table.add_column("decision")
    for rung in found.rungs:
        for index, one in enumerate(rung.standings):
            table.add_row(
                str(rung.length) if index == 0 else "",
                called(one.method),
                "" if one.miou is None else f"{one.miou:.2f}",
                _interval(one.difference),
                _interval(one.to_best),
                "" if one.seconds is None else f"{one.seconds:.0f}",
                one.said,
            )
        table.add_section()
    return table


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.difference:+.2f}\n({difference.low:+.2f} to {difference.high:+.2f})"
