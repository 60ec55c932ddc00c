"""Where and how a comparison or advice is carried out, and what it is of; apart from the recipe that its runs share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segdistill.arguments import parse_options
from segdistill.device import check_device
from segdistill.errors import UserError, unknown_name
from segdistill.naming import check_arguments, known_names
from segdistill.recipe.recipes import DistillRecipe

if TYPE_CHECKING:
    MethodList = str | list[Any]
else:  # as the command line and YAML have it
    MethodList = str | list[str]


#: The student trained alone, among the methods of a comparison: for the recipe's epochs, for as many seconds as the
#: slowest method, and for as many epochs as make it better. The last also learns its teacher's hard labels of the
#: unlabelled images.
BASELINE, EQUAL_TIME, PLATEAU, PSEUDO = "none", "none@time", "none@plateau", "none@pseudo"

#: All ways of training the student without a distillation method, in words: what methods are held against.
ALONE = {
    BASELINE: "the student without its teacher",
    EQUAL_TIME: "the student without its teacher, for as many seconds",
    PLATEAU: "the student without its teacher, until more epochs no longer helped",
    PSEUDO: "the student on labels, and on its teacher's pseudo-labels of the unlabelled images",
}

#: What all charts and tables call them; commands have the short names.
CALLED = {
    BASELINE: "student alone",
    EQUAL_TIME: "student alone, as long",
    PLATEAU: "student alone, to plateau",
    PSEUDO: "student on pseudo-labels",
}

#: All longer trainings of the student alone, in the order in which they are made: after all methods.
LONGER = (EQUAL_TIME, PLATEAU)

#: What a method is held against beside the baseline; of those that do as well, the last is the plainest.
REFERENCES = (PSEUDO, *LONGER)


def called(method: str) -> str:
    """What charts and tables call a way of training."""
    return CALLED.get(method, method)


def in_commands(methods: Iterable[str]) -> str:
    """Return the line under a table that says how a command names the ways of training that are no methods.

    Example:
        >>> in_commands(["kd", "none", "none@time"])
        'in commands: none = student alone, none@time = student alone, as long'
    """
    present = set(methods)
    return "in commands: " + ", ".join(f"{name} = {told}" for name, told in CALLED.items() if name in present)


def check_comparison(recipe: DistillRecipe, options: CompareOptions | AdviseOptions) -> None:
    """Check the names of methods without importing any; `parse_methods` looks closer.

    Raises:
        UserError: an unknown name.
    """
    if isinstance(recipe.method, str) and recipe.method in known_names("method"):  # others may be called otherwise
        check_compared(options.methods)
    recipe.check()


def check_compared(methods: Any) -> None:
    """Check the names in a text such as ``"none,kd,kd+brd"``, or in a list of such texts; what is no text is left.

    Raises:
        UserError: an unknown name.
    """
    for entry in methods.split(",") if isinstance(methods, str) else methods or ():
        for part in entry.strip().split("+") if isinstance(entry, str) else ():
            name, _, options = part.partition("?")
            if name not in ALONE and ":" not in name and name not in known_names("method"):
                raise unknown_name("method", name, [*ALONE, *known_names("method")])
            if options and name not in ALONE:
                check_arguments("method", name, parse_options(options, f"method '{part}'"), f"method {name}")


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """Where and how the runs of a comparison are carried out.

    Args:
        output: folder of the comparison, or of the advice.
        device: auto, cpu, cuda, cuda:N or mps.
        executor: local trains one run after another. ray (needs segdistill[ray]) trains several at the same time: as
            many as fit on the Ray cluster that RAY_ADDRESS names, or else on this machine.
        cpus_per_cell: CPU cores of each run, with ray.
        gpus_per_cell: GPUs of each run, with ray; 1 by default on cuda; 0.5 lets two runs share one.
        dry_run: only print which runs there are and about how long they will take.
        resume: continue what is in the output folder; false refuses a folder that holds something.
        quiet: print nothing.
    """

    output: str | Path
    device: str = "auto"
    executor: Literal["local", "ray"] = "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float | None = None
    dry_run: bool = False
    resume: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.cpus_per_cell < 1:
            raise UserError(f"cpus_per_cell is {self.cpus_per_cell}, expected at least 1")
        if self.gpus_per_cell is not None and self.gpus_per_cell < 0:
            raise UserError(f"gpus_per_cell is {self.gpus_per_cell}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(CellOptions):
    """What a comparison is of.

    Args:
        methods: methods, separated by commas; + joins several into one: none,kd,kd+brd. none is the student trained
            alone, without its teacher, and must be in the list. none@time is the student alone, trained for as many
            seconds as the slowest method. none@plateau is the student alone, with its epochs doubled until that no
            longer helps. none@pseudo is the student trained on labels, and on pseudo-labels: for the images of
            data.unlabelled, its teacher's most probable classes. Hyper-parameters follow a name, brd?relation=0&kd=0,
            so that one method can be compared with several, or are set under method in the recipe: {brd: {boundary:
            2.0}}.
        seeds: number of seeds, counted from seed, or a list of them; take three or more to see how much the results
            differ between seeds.
    """

    methods: MethodList = "none,auto"
    seeds: list[int] | int = 3


@dataclass(frozen=True, kw_only=True)
class AdviseOptions(CellOptions):
    """What advice is about.

    Args:
        methods: methods to try, separated by commas; + joins several into one. By default auto, kd, cwd, feature, at,
            drd, skd, brd and those of the recipe; the second of three or more rungs adds all other methods of the best
            one's family (logit, feature, relation or boundary). With none@time the last rung also trains the student
            alone for as many seconds as the slowest method took; with none@plateau, until more epochs no longer help;
            with none@pseudo, on its teacher's pseudo-labels of data.unlabelled as well.
        seeds: number of seeds, counted from seed, or a list of them; the same in every rung.
        rungs: largest number of rungs: rounds of runs, each longer than the one before. The last has the recipe's full
            length.
        eta: factor by which the runs of a rung are longer than those of the one before; the best 1/eta of the methods,
            rounded up, are kept for the next rung.
        budget: minutes of training in total; a rung that would exceed them, as estimated, is not started.
    """

    methods: MethodList | None = None
    seeds: list[int] | int = 1
    rungs: int = 3
    eta: int = 3
    budget: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, least in (("rungs", self.rungs, 1), ("eta", self.eta, 2)):
            if value < least:
                raise UserError(f"{name} is {value}, expected at least {least}")
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise UserError(f"budget is {self.budget:g}, expected minutes, above 0")
