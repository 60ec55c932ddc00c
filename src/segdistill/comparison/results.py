"""What a comparison of methods found, read from its folder: cells, rows, differences, verdicts."""

from __future__ import annotations

import json
import statistics as averages
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segdistill.colors import Color
from segdistill.comparison import verdict
from segdistill.comparison.statistics import Difference, GapClosure, Overlaps, compare_miou, gap_closure
from segdistill.errors import UserError
from segdistill.run_folder import RunFolder

#: The student alone, by the recipe of all the others.
BASELINE = "none"

#: The student alone, trained for as many seconds as the dearest method took.
EQUAL_TIME = "none@time"

#: Pixels within which boundary F1 forgives.
TOLERANCE = "3"

#: Below so many images percentile intervals are known to be too short.
FEW_IMAGES = 30

#: How much longer than the student alone a method may train before that is told.
SLOWER = 1.1

EVALUATION_FILE = "evaluation-val.json"
CONFUSION_FILE = "confusion-val.safetensors"


@dataclass(frozen=True)
class Summary:
    """One number of each of several runs.

    Attributes:
        runs: the numbers, at least one.

    Example:
        >>> Summary((70.0, 72.0)).mean
        71.0
    """

    runs: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return averages.fmean(self.runs)

    @property
    def least(self) -> float:
        """The smallest one."""
        return min(self.runs)

    @property
    def most(self) -> float:
        """The largest one."""
        return max(self.runs)

    @property
    def deviation(self) -> float | None:
        """Their sample standard deviation; None for one run."""
        return averages.stdev(self.runs) if len(self.runs) > 1 else None


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a comparison: one method, one seed.

    Attributes:
        method: as in the command, e.g. ``"none"``, ``"kd+brd"``; ``"teacher"`` for the teacher's.
        seed: its seed; -1 for the teacher's.
        run: its folder, whether it is there or not; `segdistill.load_run` reads the network.
        evaluation: what evaluation-val.json holds (`Evaluation.as_dict`, percents), with ``parameters``, ``macs`` and
            ``size``, (height, width) of the image that the MACs are for; None while it is not finished.
        confusion: int32 (N, K, K), confusion counts of each validation image in the order of `Comparison.ids`; row =
            true class, column = predicted class. None while it is not finished, and where it was not read.
        seconds: of training, without validation; None while it is not finished, and for the teacher.
        epochs: that it was trained; None as above.
        error: the sentence with which it failed; None if it did not.
    """

    method: str
    seed: int
    run: Path
    evaluation: dict[str, Any] | None = None
    confusion: Tensor | None = None
    seconds: float | None = None
    epochs: int | None = None
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it was trained and measured."""
        return self.evaluation is not None

    @property
    def status(self) -> str:
        """``"finished"``, ``"failed"`` or ``"not finished"``."""
        if self.finished:
            return "finished"
        return "not finished" if self.error is None else "failed"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; without the counts of each image."""
        return {
            "seed": self.seed,
            "run": str(self.run),
            "status": self.status,
            "error": self.error,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "evaluation": self.evaluation,
        }


@dataclass(frozen=True, eq=False)
class Row:
    """All runs of one method. Scores are in percent, on the validation split, of the finished cells alone.

    Attributes:
        method: as in `Cell`.
        cells: one for each seed.
        miou: None while no cell is finished; so are the next three.
        boundary_iou: mean Boundary IoU; None also where no run has one.
        boundary_f1: mean boundary F1 at 3 pixels.
        connectivity_error: 0 is best.
        difference: mIoU minus the baseline's; None for the baseline, the teacher, and where one of them is missing.
        difference_at_time: mIoU minus that of the student alone trained for as long, `EQUAL_TIME`.
        gap: how much of the way from the baseline to the teacher it went; None as for ``difference``.
        seconds: of one training, on average; None while no cell is finished.
        macs: multiply-accumulates of one image of ``Cell.evaluation["size"]``.
        parameters: of the network.
        verdict: in words, from the interval of ``difference`` alone.
    """

    method: str
    cells: tuple[Cell, ...]
    miou: Summary | None
    boundary_iou: Summary | None
    boundary_f1: Summary | None
    connectivity_error: Summary | None
    difference: Difference | None
    difference_at_time: Difference | None
    gap: GapClosure | None
    seconds: float | None
    macs: int | None
    parameters: int | None
    verdict: str

    @property
    def finished(self) -> tuple[Cell, ...]:
        """The cells that were trained and measured."""
        return tuple(cell for cell in self.cells if cell.finished)

    def iou(self, name: str) -> Summary | None:
        """IoU of the class ``name``; None where no finished cell has one."""
        return _summary(self.cells, lambda evaluation: evaluation["iou"][name])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        scores = {
            name: None if summary is None else asdict(summary) | {"mean": summary.mean, "deviation": summary.deviation}
            for name, summary in (
                ("miou", self.miou),
                ("boundary_iou", self.boundary_iou),
                ("boundary_f1", self.boundary_f1),
                ("connectivity_error", self.connectivity_error),
            )
        }
        return {
            "method": self.method,
            "verdict": self.verdict,
            **scores,
            "difference": None if self.difference is None else asdict(self.difference),
            "difference_at_time": None if self.difference_at_time is None else asdict(self.difference_at_time),
            "gap": None if self.gap is None else asdict(self.gap),
            "seconds": self.seconds,
            "macs": self.macs,
            "parameters": self.parameters,
            "cells": [cell.as_dict() for cell in self.cells],
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison of distillation methods found, finished or not.

    Attributes:
        folder: where it lies.
        recipe: the complete recipe that all cells share, ``data``, ``teacher``, ``student``, ``train`` and so on.
        command: the command line that makes it again.
        classes: names of the K classes.
        palette: a colour for each.
        ids: names of the N validation images.
        teacher: its row: one cell, no difference.
        rows: the methods in the order asked for, the baseline `BASELINE` among them.
        verdict: the headline, a few sentences; whatever speaks against all of it comes first.
        warnings: what the reader should know before believing it, a sentence each.
        versions: of the libraries, by name.
        machine: what the cells ran on, in words, by property.
    """

    folder: Path
    recipe: dict[str, Any]
    command: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: tuple[str, ...]
    teacher: Row
    rows: tuple[Row, ...]
    verdict: str
    warnings: tuple[str, ...]
    versions: dict[str, str]
    machine: dict[str, str]

    @property
    def baseline(self) -> Row:
        """The row of the student alone."""
        return next(row for row in self.rows if row.method == BASELINE)

    @property
    def finished(self) -> bool:
        """Whether every cell was trained and measured."""
        return all(cell.finished for row in (self.teacher, *self.rows) for cell in row.cells)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "command": self.command,
            "finished": self.finished,
            "teacher": self.teacher.as_dict(),
            "rows": [row.as_dict() for row in self.rows],
            "classes": list(self.classes),
            "images": len(self.ids),
            "recipe": self.recipe,
            "versions": self.versions,
            "machine": self.machine,
        }


def load_comparison(folder: str | Path) -> Comparison:
    """Reads a comparison, finished or not, and draws its statistics from the cells that are finished.

    Args:
        folder: the output folder of `segdistill.compare`.

    Raises:
        UserError: if it is no comparison, or its cells do not belong together: other classes, other images, scores
            that are missing.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    if plan is None:
        raise UserError(f"{folder} is no comparison: it has no plan.json; make one with segdistill compare")
    cells = {
        method: tuple(read_cell(folder, method, seed, plan, counts=True) for seed in plan["seeds"])
        for method in plan["methods"]
    }
    teacher = read_cell(folder, "teacher", -1, plan, counts=True)
    _check_labels([teacher, *(cell for row in cells.values() for cell in row)])
    rows = tuple(_row(method, row, cells, teacher) for method, row in cells.items())
    teacher_row = _row("teacher", (teacher,), cells, teacher)
    distilled = [row for row in rows if row.method not in (BASELINE, EQUAL_TIME)]
    every = [cell for row in cells.values() for cell in row]
    return Comparison(
        folder=folder,
        recipe=plan["recipe"],
        command=plan["command"],
        classes=tuple(plan["classes"]),
        palette=tuple((red, green, blue) for red, green, blue in plan["palette"]),
        ids=tuple(plan["ids"]),
        teacher=teacher_row,
        rows=rows,
        verdict=verdict.headline(
            missing=sum(cell.status == "not finished" for cell in every),
            failed=sum(cell.status == "failed" for cell in every),
            teacher=teacher_row.difference,
            differences={row.method: row.difference for row in distilled if row.difference is not None},
            at_time={row.method: row.difference_at_time for row in distilled if row.difference_at_time is not None},
            gaps={row.method: row.gap for row in distilled if row.gap is not None},
        ),
        warnings=_warnings(rows, len(plan["ids"]), plan["recipe"]),
        versions=plan["versions"],
        machine=plan["machine"],
    )


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What a comparison is of: methods, seeds, classes, image names and the like; None where there is none."""
    file = folder / "plan.json"
    if not file.exists():
        return None
    plan = _read_json(file)
    missing = {"recipe", "methods", "seeds", "classes", "palette", "ids", "command", "versions", "machine"} - set(plan)
    if missing:
        raise UserError(f"{file} lacks {', '.join(sorted(missing))}; run segdistill compare again")
    return plan


def cell_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a cell's run lies."""
    return folder / "teacher" if method == "teacher" else folder / "cells" / method / f"seed-{seed}"


def error_file(run: Path) -> Path:
    """Where the sentence is kept with which a cell failed: beside its run, which need not have come to be."""
    return run.with_name(f"{run.name}.error.txt")


def read_cell(folder: Path, method: str, seed: int, plan: Mapping[str, Any], *, counts: bool = False) -> Cell:
    """A cell from its run folder; without an evaluation where it was not yet trained and measured.

    Args:
        folder: of the comparison.
        method: of the cell.
        seed: of the cell.
        plan: see `read_plan`.
        counts: whether the confusion counts are read too; with many classes they are large.

    Raises:
        UserError: if its scores are not of the plan's classes and images, or some are missing.
    """
    run = cell_folder(folder, method, seed)
    # The teacher was trained elsewhere; its folder here holds only what was measured.
    place = Path(plan["recipe"]["teacher"]) if method == "teacher" else run
    metrics = {} if method == "teacher" else RunFolder(run).read_metrics()
    if metrics is None or not (run / EVALUATION_FILE).exists() or not (run / CONFUSION_FILE).exists():
        error = error_file(run).read_text(encoding="utf-8").strip() if error_file(run).exists() else None
        return Cell(method, seed, place, error=error)
    evaluation = _read_json(run / EVALUATION_FILE)
    missing = {"miou", "iou", "boundary", "connectivity", "parameters", "macs"} - set(evaluation)
    if missing:
        raise UserError(
            f"{run / EVALUATION_FILE} lacks {', '.join(sorted(missing))}; remove it and run segdistill compare again, "
            "which measures anew"
        )
    if list(evaluation["iou"]) != list(plan["classes"]):
        raise UserError(
            f"{run / EVALUATION_FILE} is of the classes {', '.join(evaluation['iou'])}, but the comparison is of "
            f"{', '.join(plan['classes'])}"
        )
    return Cell(
        method,
        seed,
        place,
        evaluation=evaluation,
        confusion=_read_confusion(run / CONFUSION_FILE, len(plan["ids"]), len(plan["classes"])) if counts else None,
        # metrics.json rounds the sum, to which a short run would fall victim.
        seconds=None if method == "teacher" else sum(float(row["seconds"]) for row in RunFolder(run).read_history()),
        epochs=metrics.get("epochs"),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a {type(values).__name__}, expected a mapping")
    return values


def _read_confusion(file: Path, images: int, classes: int) -> Tensor:
    try:
        confusion = load_file(file).get("confusion")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {file}: {error}; remove it and run segdistill compare again") from error
    if confusion is None or confusion.shape != (images, classes, classes):
        found = "nothing" if confusion is None else f"counts of shape {tuple(confusion.shape)}"
        raise UserError(
            f"{file} holds {found}, expected {(images, classes, classes)}: {images} validation images and {classes} "
            "classes; it was made with other data"
        )
    return confusion


def _check_labels(cells: Sequence[Cell]) -> None:
    """Refuses cells that were scored on other labels than the first one."""
    measured = [(cell, cell.confusion.sum(2).numpy()) for cell in cells if cell.confusion is not None]
    for cell, labels in measured[1:]:
        if not np.array_equal(labels, measured[0][1]):
            first = measured[0][0]
            raise UserError(
                f"{cell.method} (seed {cell.seed}) was scored on other labels than {first.method} (seed {first.seed}): "
                "the validation images or masks have changed in between; start in a new folder"
            )


def _row(method: str, cells: tuple[Cell, ...], all_cells: Mapping[str, tuple[Cell, ...]], teacher: Cell) -> Row:
    found = [cell.evaluation for cell in cells if cell.evaluation is not None]
    baseline = _overlaps(all_cells[BASELINE])
    big = _overlaps((teacher,)).get(teacher.seed)
    own = _overlaps(cells)
    difference = at_time = None
    gap = None
    if method == "teacher":
        if baseline and big is not None:
            runs = list(baseline.values())
            difference = gap_closure(runs, runs, big).gap
    elif method != BASELINE:
        difference = _difference(own, baseline)
        if method != EQUAL_TIME:
            at_time = _difference(own, _overlaps(all_cells.get(EQUAL_TIME, ())))
        if difference is not None and big is not None:
            gap = gap_closure(*_matched(own, baseline), big)
    if method == BASELINE:
        said = "the baseline"
    else:
        # The teacher is one given network; only its opponent varies with the seed.
        said = verdict.row_verdict(difference, len(baseline) if method == "teacher" else _seeds(difference))
    return Row(
        method=method,
        cells=cells,
        miou=_summary(cells, lambda evaluation: evaluation["miou"]),
        boundary_iou=_summary(cells, lambda evaluation: evaluation["boundary"]["mean_boundary_iou"]),
        boundary_f1=_summary(cells, lambda evaluation: evaluation["boundary"]["mean_boundary_f1"][TOLERANCE]),
        connectivity_error=_summary(cells, lambda evaluation: evaluation["connectivity"]["error"]),
        difference=difference,
        difference_at_time=at_time,
        gap=gap,
        seconds=_mean([cell.seconds for cell in cells if cell.seconds is not None]),
        macs=found[0]["macs"] if found else None,
        parameters=found[0]["parameters"] if found else None,
        verdict=said,
    )


def _summary(cells: Sequence[Cell], score: Callable[[dict[str, Any]], float | None]) -> Summary | None:
    scores = [score(cell.evaluation) for cell in cells if cell.evaluation is not None]
    there = tuple(value for value in scores if value is not None)
    return Summary(there) if there else None


def _mean(values: Sequence[float]) -> float | None:
    return averages.fmean(values) if values else None


def _overlaps(cells: Sequence[Cell]) -> dict[int, Overlaps]:
    """By seed, of the finished cells."""
    return {cell.seed: Overlaps.from_confusion(cell.confusion) for cell in cells if cell.confusion is not None}


def _matched(own: Mapping[int, Overlaps], baseline: Mapping[int, Overlaps]) -> tuple[list[Overlaps], list[Overlaps]]:
    """Runs that can be compared: all of them, or one of each where one side has no more, of equal seed if possible."""
    if min(len(own), len(baseline)) > 1:
        return list(own.values()), list(baseline.values())
    common = [seed for seed in own if seed in baseline]
    first, second = (common[0], common[0]) if common else (next(iter(own)), next(iter(baseline)))
    return [own[first]], [baseline[second]]


def _difference(own: Mapping[int, Overlaps], baseline: Mapping[int, Overlaps]) -> Difference | None:
    return compare_miou(*_matched(own, baseline)) if own and baseline else None


def row_difference(row: Row, other: Row) -> Difference | None:
    """mIoU of one row minus that of another; None where one of them has no finished cell."""
    return _difference(_overlaps(row.cells), _overlaps(other.cells))


def _seeds(difference: Difference | None) -> int:
    return 0 if difference is None else verdict.seeds_of(difference)


def _warnings(rows: Sequence[Row], images: int, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """What the reader should know before believing the rows."""
    told = []
    by_name = {row.method: row for row in rows}
    baseline, equal_time = by_name[BASELINE], by_name.get(EQUAL_TIME)
    compared = [row for row in rows if row.method not in (BASELINE, EQUAL_TIME) and row.difference is not None]
    for row in rows:
        for cell in row.cells:
            if cell.status == "failed":
                told.append(f"{row.method} failed with seed {cell.seed}: {cell.error}")
    if any(_seeds(row.difference) == 1 for row in compared):
        told.append("with one seed the intervals are about these networks on other images, not about other seeds")
    elif any(_seeds(row.difference) == 2 for row in compared):
        told.append(
            "two seeds tell little of how much seeds matter, so that the intervals are wide; take three or more"
        )
    if images < FEW_IMAGES:
        told.append(f"{images} validation images are few: a bootstrap interval needs some {FEW_IMAGES} to be right")
    if len(compared) > 1:
        told.append(
            f"{len(compared)} methods are held against one baseline: the more there are, the likelier it is that one "
            "of the intervals errs"
        )
    dearest = max((row.seconds for row in compared if row.seconds is not None), default=0.0)
    if equal_time is None and baseline.seconds and dearest > SLOWER * baseline.seconds:
        told.append(
            f"the slowest method trained for {dearest / baseline.seconds:.1f} times as long as the student alone; add "
            f"{EQUAL_TIME} to see what the student alone makes of that time"
        )
    if equal_time is not None and equal_time.seconds and dearest > SLOWER * equal_time.seconds:
        told.append(
            f"the slowest method trained for {dearest:.0f} s and {EQUAL_TIME} for {equal_time.seconds:.0f} s only"
        )
    if recipe.get("teacher_cache") is not None:
        told.append("the seconds leave out the time in which the teacher cache was filled")
    return tuple(told)
