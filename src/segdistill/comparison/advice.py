"""What `segdistill.advise` found: rungs of ever longer runs and fewer methods, and the recommendation they allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segdistill.comparison import verdict
from segdistill.comparison.methods import is_alone
from segdistill.comparison.reading import row_difference
from segdistill.comparison.results import Comparison, Row
from segdistill.comparison.statistics import Difference
from segdistill.errors import UserError


@dataclass(frozen=True)
class Standing:
    """How one method did in one rung.

    Attributes:
        method: its name.
        miou: mean over seeds, on the validation split, in percent; None where no run was finished.
        difference: mIoU minus that of the student alone; None for it itself, and where no run was finished.
        to_best: mIoU minus that of the rung's best method; None for that one and the student alone, and as above.
        seconds: of one training, on average.
        kept: whether it enters the next rung, or is the best of the last one; the student alone always does.
        failed: the sentence with which it failed; None if it did not.
    """

    method: str
    miou: float | None
    difference: Difference | None
    to_best: Difference | None
    seconds: float | None
    kept: bool
    failed: str | None

    @property
    def close(self) -> bool:
        """Whether it was left out although it was not seen to be worse than the best."""
        return not self.kept and self.to_best is not None and self.to_best.verdict != "worse"

    @property
    def said(self) -> str:
        """What became of it, in words."""
        if is_alone(self.method):
            return "the baseline"
        if self.failed is not None:
            return f"failed: {self.failed}"
        if self.kept:
            return "kept"
        return "left out; perhaps as good as the best" if self.close else "left out"


@dataclass(frozen=True, eq=False)
class Rung:
    """Runs of equal length: the methods that are left, and the student alone.

    Attributes:
        length: of each run.
        unit: of the length, "epochs" or "steps".
        comparison: of these runs.
        standings: the methods, the best mean first, those that failed last; then the student alone.
    """

    length: int
    unit: str
    comparison: Comparison
    standings: tuple[Standing, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The methods that go on, the best first."""
        return tuple(one.method for one in self.standings if one.kept and not is_alone(one.method))

    @property
    def best(self) -> Standing:
        """The best method."""
        return self.standings[0]

    @property
    def told(self) -> str:
        """Its length in words."""
        return verdict.length_told(self.length, self.unit)

    @property
    def seconds(self) -> float:
        """Of all its trainings together."""
        return sum(cell.seconds or 0.0 for row in self.comparison.rows for cell in row.cells)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            self.unit: self.length,
            "folder": str(self.comparison.folder),
            "standings": [asdict(one) | {"said": one.said} for one in self.standings],
        }


@dataclass(frozen=True, eq=False)
class Advice:
    """What `segdistill.advise` recommends.

    Attributes:
        folder: where it lies; rung N is the comparison in rung-N.
        recommended: a method; ``"none"`` for the student alone, ``"none@time"`` for the student alone, longer.
        text: the recommendation in a few sentences, which say no more than the intervals allow.
        notes: what the reader should know before believing it, a sentence each.
        rungs: shortest runs first.
        command: the command line that makes it again.
    """

    folder: Path
    recommended: str
    text: str
    notes: tuple[str, ...]
    rungs: tuple[Rung, ...]
    command: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "recommended": self.recommended,
            "text": self.text,
            "notes": list(self.notes),
            "command": self.command,
            "rungs": [rung.as_dict() for rung in self.rungs],
        }


def rung_lengths(length: int, rungs: int, eta: int) -> tuple[int, ...]:
    """Epochs, or steps, of each rung, ascending; the last one is the whole recipe.

    Args:
        length: of the whole recipe.
        rungs: how many at most; those that would be equally long become one.
        eta: how many times as long each is as the one before.

    Example:
        >>> rung_lengths(50, 3, 3), rung_lengths(2, 3, 3)
        ((6, 17, 50), (1, 2))
    """
    return tuple(sorted({max(1, round(length / eta**power)) for power in range(rungs)}))


def survivors(methods: int, eta: int) -> int:
    """How many methods a rung keeps of so many: one in ``eta``, rounded up.

    Example:
        >>> survivors(5, 3), survivors(2, 3)
        (2, 1)
    """
    return math.ceil(methods / eta)


def read_rung(comparison: Comparison, length: int, unit: str, keep: int) -> Rung:
    """Ranks the methods of a rung by mIoU.

    Args:
        comparison: its runs, all of them finished or failed.
        length: of each run.
        unit: of the length, "epochs" or "steps".
        keep: how many methods go on.

    Raises:
        UserError: if the student alone, or every method, failed.
    """
    methods = [row for row in comparison.rows if not is_alone(row.method)]
    ranked = sorted((row for row in methods if row.difference is not None), key=_gain, reverse=True)
    if not ranked:
        failed = next(cell for row in comparison.rows for cell in row.cells if cell.error is not None)
        who = "the student alone" if not comparison.baseline.finished else "every method"
        raise UserError(
            f"{who} failed in {comparison.folder}, so that there is nothing to choose between ({failed.method}, seed "
            f"{failed.seed}: {failed.error}); the same command tries again"
        )
    references = [row for row in comparison.rows if is_alone(row.method)]
    rest = [row for row in methods if row.difference is None]
    standings = [
        Standing(
            method=row.method,
            miou=None if row.miou is None else row.miou.mean,
            difference=row.difference,
            to_best=None if row is ranked[0] or row in references else row_difference(row, ranked[0]),
            seconds=row.seconds,
            kept=row in references or row in ranked[:keep],
            failed=next((cell.error for cell in row.cells if cell.error is not None), None) if row in rest else None,
        )
        for row in (*ranked, *rest, *references)
    ]
    return Rung(length, unit, comparison, tuple(standings))


def _gain(row: Row) -> float:
    return row.difference.difference if row.difference is not None else -math.inf


def advice(folder: Path, rungs: Sequence[Rung], *, full: int, ended: str | None, command: str) -> Advice:
    """The recommendation of what was run.

    Args:
        folder: where it lies.
        rungs: at least one.
        full: length of the whole recipe.
        ended: the sentence with which a budget ended it early; None if none did.
        command: the command line that makes it again.
    """
    last = rungs[-1]
    rows = {row.method: row for row in last.comparison.rows}
    best = last.best
    assert best.difference is not None  # read_rung ranks no other first
    recommended, text = verdict.recommendation(
        best.method,
        best.difference,
        length=last.length,
        full=full,
        unit=last.unit,
        teacher=last.comparison.teacher.difference,
        against=rows[best.method].against,
    )
    notes = [] if ended is None else [ended]
    for rung in rungs:
        for one in rung.standings:
            if one.failed is not None:
                notes.append(f"{one.method} failed in the runs of {rung.told} and was left out: {one.failed}")
            elif one.close and one.to_best is not None:
                notes.append(
                    f"after {rung.told} {one.method} was left out, though its difference from "
                    f"{rung.best.method} may be chance: {verdict.points(one.to_best)}"
                )
    if sum(not is_alone(one.method) for one in rungs[0].standings) > 1:
        notes.append(
            "the method was chosen on the same validation images that its interval is about, so it looks a little "
            "better than it is"
        )
    notes += [warning for warning in last.comparison.warnings if warning not in notes]
    return Advice(folder, recommended, text, tuple(notes), tuple(rungs), command)
