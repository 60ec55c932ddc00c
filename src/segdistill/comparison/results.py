"""What a comparison of methods found: its cells, its rows and the whole, as dataclasses."""

from __future__ import annotations

import statistics as averages
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from segdistill.colors import Color
from segdistill.comparison.options import BASELINE
from segdistill.comparison.statistics import Difference, GapClosure
from segdistill.comparison.table import comparison_html


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
        epochs: that it was trained, the last one perhaps in part; None as above.
        steps: that it was trained; None as above, and for runs of older versions.
        error: the sentence with which it failed; None if it did not.
    """

    method: str
    seed: int
    run: Path
    evaluation: dict[str, Any] | None = None
    confusion: Tensor | None = None
    seconds: float | None = None
    epochs: int | None = None
    steps: int | None = None
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it was trained and measured."""
        return self.evaluation is not None

    def length_in(self, unit: Literal["epochs", "steps"]) -> int | None:
        """How long it was trained."""
        return self.epochs if unit == "epochs" else self.steps

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
            "steps": self.steps,
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
        against: of a method, its mIoU minus that of each other way of training the student alone, by its name: those of
            `ALONE` but the baseline.
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
    against: Mapping[str, Difference]
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
        return summary_of(self.cells, lambda evaluation: evaluation["iou"][name])

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
            "against": {name: asdict(one) for name, one in self.against.items()},
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
        teacher_scored: whether the teacher has the classes of the data, so that it can be scored.
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
    teacher_scored: bool = True

    def __repr__(self) -> str:
        # All fields would fill screens of an interpreter.
        return f"Comparison(folder={str(self.folder)!r}, verdict={self.verdict!r})"

    @property
    def baseline(self) -> Row:
        """The row of the student alone."""
        return next(row for row in self.rows if row.method == BASELINE)

    @property
    def finished(self) -> bool:
        """Whether every cell was trained and measured, and the teacher too, unless it has other classes."""
        rows = (self.teacher, *self.rows) if self.teacher_scored else self.rows
        return all(cell.finished for row in rows for cell in row.cells)

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

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the verdict, the warnings and the table of all methods."""
        return comparison_html(self)


def summary_of(cells: Sequence[Cell], score: Callable[[dict[str, Any]], float | None]) -> Summary | None:
    """A score of each finished cell; None where no cell has it."""
    scores = [score(cell.evaluation) for cell in cells if cell.evaluation is not None]
    there = tuple(value for value in scores if value is not None)
    return Summary(there) if there else None
