"""A comparison read from its folder, and the statistics drawn from its finished cells."""

from __future__ import annotations

import json
import statistics as averages
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segdistill.comparison import verdict
from segdistill.comparison.methods import is_alone
from segdistill.comparison.options import BASELINE, EQUAL_TIME, LONGER, REFERENCES, called
from segdistill.comparison.results import Cell, Comparison, Row, summary_of
from segdistill.comparison.statistics import Difference, Overlaps, compare_miou, gap_closure
from segdistill.errors import UserError
from segdistill.files import as_path
from segdistill.networks.identity import network_label
from segdistill.progress import counted
from segdistill.run_folder import RunFolder

#: Pixels within which boundary F1 forgives.
TOLERANCE = "3"

#: Below so many images percentile intervals are known to be too short.
FEW_IMAGES = 30

#: How much longer than the student alone a method may train before that is told.
SLOWER = 1.1

EVALUATION_FILE = "evaluation-val.json"
CONFUSION_FILE = "confusion-val.safetensors"


def load_comparison(folder: str | Path) -> Comparison:
    """Reads a comparison, finished or not, and draws its statistics from the cells that are finished.

    Args:
        folder: the output folder of `segdistill.compare`.

    Raises:
        UserError: if it is no comparison, or its cells do not belong together: other classes, other images, scores
            that are missing.
    """
    folder = as_path(folder, "folder")
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
    distilled = [row for row in rows if not is_alone(row.method)]
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
            against={row.method: row.against for row in distilled},
            gaps={row.method: row.gap for row in distilled if row.gap is not None},
            longer={row.method: row.difference for row in rows if row.method in LONGER and row.difference is not None},
        ),
        warnings=_warnings(rows, len(plan["ids"]), plan),
        versions=plan["versions"],
        machine=plan["machine"],
        teacher_scored=plan.get("teacher_scored", True),
    )


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What a comparison is of: methods, seeds, classes, image names and the like; None where there is none."""
    file = folder / "plan.json"
    if not file.exists():
        return None
    plan = read_json(file)
    missing = {"recipe", "methods", "seeds", "classes", "palette", "ids", "command", "versions", "machine"} - set(plan)
    if missing:
        raise UserError(f"{file} lacks {', '.join(sorted(missing))}; run segdistill compare again")
    return plan


def cell_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a cell's run lies."""
    if method == "teacher":
        return folder / "teacher"
    # Windows has no "?" in names of files, and a shell reads "?" and "&" as its own signs.
    return folder / "cells" / method.replace("?", ",").replace("&", ",") / f"seed-{seed}"


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
    place = Path(network_label(plan["recipe"]["teacher"])) if method == "teacher" else run
    metrics = {} if method == "teacher" else RunFolder(run).read_metrics()
    if metrics is None or not (run / EVALUATION_FILE).exists() or not (run / CONFUSION_FILE).exists():
        error = error_file(run).read_text(encoding="utf-8").strip() if error_file(run).exists() else None
        return Cell(method, seed, place, error=error)
    evaluation = read_json(run / EVALUATION_FILE)
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
        steps=metrics.get("steps"),
    )


def read_json(file: Path) -> dict[str, Any]:
    """A mapping from a JSON file of a comparison.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
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
    difference = None
    against: dict[str, Difference] = {}
    gap = None
    if method == "teacher":
        if baseline and big is not None:
            runs = list(baseline.values())
            difference = gap_closure(runs, runs, big).gap
    elif method != BASELINE:
        difference = _difference(own, baseline)
        if not is_alone(method):
            others = {name: _difference(own, _overlaps(all_cells.get(name, ()))) for name in REFERENCES}
            against = {name: one for name, one in others.items() if one is not None}
        if difference is not None and big is not None:
            gap = gap_closure(*_matched(own, baseline), big)
    if method == BASELINE:
        said = "the baseline"
    elif method == "teacher" and big is None:
        said = "not measured"
    else:
        # The teacher is one given network; only its opponent varies with the seed.
        said = verdict.row_verdict(difference, len(baseline) if method == "teacher" else _seeds(difference))
    return Row(
        method=method,
        cells=cells,
        miou=summary_of(cells, lambda evaluation: evaluation["miou"]),
        boundary_iou=summary_of(cells, lambda evaluation: evaluation["boundary"]["mean_boundary_iou"]),
        boundary_f1=summary_of(cells, lambda evaluation: evaluation["boundary"]["mean_boundary_f1"][TOLERANCE]),
        connectivity_error=summary_of(cells, lambda evaluation: evaluation["connectivity"]["error"]),
        difference=difference,
        against=against,
        gap=gap,
        seconds=_mean([cell.seconds for cell in cells if cell.seconds is not None]),
        macs=found[0]["macs"] if found else None,
        parameters=found[0]["parameters"] if found else None,
        verdict=said,
    )


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


def _warnings(rows: Sequence[Row], images: int, plan: Mapping[str, Any]) -> tuple[str, ...]:
    """What the reader should know before believing the rows."""
    told = []
    by_name = {row.method: row for row in rows}
    baseline, equal_time = by_name[BASELINE], by_name.get(EQUAL_TIME)
    compared = [row for row in rows if not is_alone(row.method) and row.difference is not None]
    for row in rows:
        for cell in row.cells:
            if cell.status == "failed":
                told.append(f"{called(row.method)} failed with seed {cell.seed}: {cell.error}")
    if any(_seeds(row.difference) == 1 for row in compared):
        told.append("with one seed it is unknown how much results differ between seeds; take three or more")
    elif any(_seeds(row.difference) == 2 for row in compared):
        told.append(
            "two seeds say little about how much results differ between seeds, so that the intervals are wide; take "
            "three or more"
        )
    if images < FEW_IMAGES:
        few = f"{counted(images, 'validation image')} {'is' if images == 1 else 'are'} few"
        told.append(f"{few}: a bootstrap interval needs about {FEW_IMAGES} to be right")
    if len(compared) > 1:
        told.append(
            f"{len(compared)} methods are compared with the student alone: the more there are, the likelier it is that "
            "one of the intervals is wrong"
        )
    slowest = max((row.seconds for row in compared if row.seconds is not None), default=0.0)
    if equal_time is None and baseline.seconds and slowest > SLOWER * baseline.seconds:
        told.append(
            f"the slowest method trained for {slowest / baseline.seconds:.1f} times as long as the student alone; add "
            f"{EQUAL_TIME} to --methods, to train the student alone for as many seconds"
        )
    if equal_time is not None and equal_time.seconds and slowest > SLOWER * equal_time.seconds:
        told.append(
            f"the slowest method trained for {slowest:.0f} s, but {called(EQUAL_TIME)}, only for "
            f"{equal_time.seconds:.0f} s"
        )
    if not plan.get("teacher_scored", True):
        told.append(
            "the teacher has other classes than the data, or none: it has no score here, and there is no gap to close"
        )
    if plan["recipe"].get("teacher_cache") is not None:
        told.append("the seconds leave out the time in which the teacher cache was filled")
    return tuple(told)
