"""A comparison in plain words: how small, fast and good the student is beside its teacher, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segdistill.comparison.methods import is_alone
from segdistill.comparison.options import BASELINE, LONGER, PSEUDO
from segdistill.comparison.results import Cell, Comparison, Row
from segdistill.comparison.verdict import HOW_LONG, ON_PSEUDO_LABELS

#: What the words of a comparison mean, for those who read such a page for the first time.
EXPLANATION = (
    "Knowledge distillation lets a large network, the teacher, guide the training of a small and fast one, the "
    "student. All students here are the same small network, trained on the same images; only the way of training "
    "differs. The student alone is the student trained on the labels without its teacher (in commands: "
    f"{BASELINE}): a method is worth its effort only if it is better than that. mIoU, mean intersection over union, is "
    "the score: for each class the area that prediction and truth share, divided by the area that either covers, "
    "averaged over the classes; 100 % is perfect. A point is one percent of it. The gap is the distance from the "
    "student alone to the teacher. A seed is one repetition of the training with other random numbers. The 95 % "
    "interval, in brackets behind a difference, is where the difference probably lies; if 0 lies in it, there may be "
    "no difference."
)

#: What the page is about, in three sentences, for the same readers.
INTRODUCTION = (
    "The student is a small, fast network. It can learn from labelled images alone, or also from the teacher, a larger "
    "network that was trained before; this is called distillation. mIoU says how well a network's areas match the "
    "labels: 100 % is perfect."
)


@dataclass(frozen=True)
class Advised:
    """What a comparison recommends.

    Attributes:
        row: the way of training to take; None while nothing can be recommended.
        text: what to do, in one or two sentences.
    """

    row: Row | None
    text: str

    @property
    def cell(self) -> Cell | None:
        """The run of that row with the best mIoU."""
        if self.row is None or not self.row.finished:
            return None
        return max(self.row.finished, key=lambda cell: (cell.evaluation or {})["miou"])


def advised(comparison: Comparison) -> Advised:
    """What to do, by the same rules as `segdistill.advise`: what an interval does not show is not recommended."""
    baseline = comparison.baseline
    if not baseline.finished:
        return Advised(None, "Nothing can be recommended before the student alone is trained: run the command again.")
    tried = [row for row in comparison.rows if not is_alone(row.method) and row.difference is not None]
    better = [row for row in tried if row.difference is not None and row.difference.verdict == "better"]
    if not better:
        if not tried:
            return Advised(None, "Nothing can be recommended before a method is trained: run the command again.")
        longer = _longer_and_better(comparison)
        if longer is not None:
            return Advised(
                longer,
                "Train the small network (the student) without the large one (the teacher), but for longer: no method "
                "was seen to be better than the student alone; the student alone trained "
                f"{HOW_LONG[longer.method]} was better. Compare again with as many epochs: a method may need them, "
                "too.",
            )
        return Advised(
            baseline,
            "Train the small network (the student) without the large one (the teacher): no method was seen to be "
            "better. A gain too small to be seen here is possible; more seeds and more validation images show smaller "
            "gains.",
        )
    best = max(better, key=lambda row: row.difference.difference if row.difference is not None else 0.0)
    as_good = [name for name, one in best.against.items() if one.verdict != "better"]
    if as_good:
        row = next(row for row in comparison.rows if row.method == as_good[-1])
        if row.method == PSEUDO:
            return Advised(
                row,
                f"Train the student {ON_PSEUDO_LABELS}: {best.method} is better than the student alone, but not "
                "seen to be better than training on pseudo-labels.",
            )
        return Advised(
            row,
            "Train the small network (the student) without the large one (the teacher), but for longer: "
            f"{best.method} is better after as many epochs, but the student alone, trained {HOW_LONG[as_good[-1]]}, "
            "does as well.",
        )
    return Advised(
        best,
        "Train the small network (the student) with the help of the large one (the teacher), by the method "
        f"{best.method}: this makes it better than training without the teacher.",
    )


def _longer_and_better(comparison: Comparison) -> Row | None:
    """The longer training of the student alone that was better by most than the recipe's; None where none was."""
    found = [(row, row.difference) for row in comparison.rows if row.method in LONGER and row.difference is not None]
    better = [(row, one.difference) for row, one in found if one.verdict == "better"]
    return max(better, key=lambda pair: pair[1])[0] if better else None


def lead(row: Row, teacher: Row, milliseconds: Mapping[str, float]) -> str:
    """One sentence: how much smaller and faster a row's network is than the teacher, and how much of its mIoU it keeps.

    Args:
        row: of the student.
        teacher: of the teacher.
        milliseconds: of one image, by method; where they are missing, operations are counted instead.
    """
    told, kept = [], ""
    if row.parameters and teacher.parameters:
        told.append(times(teacher.parameters / row.parameters, "smaller", "larger", "about as large"))
    if row.method in milliseconds and "teacher" in milliseconds:
        told.append(times(milliseconds["teacher"] / milliseconds[row.method], "faster", "slower", "about as fast"))
    elif row.macs and teacher.macs:
        told.append(times(teacher.macs / row.macs, "cheaper to run", "more expensive to run", "about as cheap to run"))
    if row.miou is not None and teacher.miou is not None and teacher.miou.mean > 0:
        share = 100 * row.miou.mean / teacher.miou.mean
        kept = f"keeps {share:.0f} % of its teacher's mIoU ({row.miou.mean:.1f} of {teacher.miou.mean:.1f} %)"
    if not told:
        return f"The student {kept}." if kept else ""
    return f"Compared with its teacher, the student is {' and '.join(told)}{', and ' if kept else ''}{kept}."


def times(ratio: float, more: str, less: str, equal: str) -> str:
    """A ratio in words.

    Example:
        >>> [times(ratio, "faster", "slower", "about as fast") for ratio in (12.34, 1.01, 0.4)]
        ['12 times faster', 'about as fast', '2.5 times slower']
    """
    if 1 / 1.05 < ratio < 1.05:
        return equal
    factor, word = (ratio, more) if ratio > 1 else (1 / ratio, less)
    return f"{factor:.{0 if factor >= 9.95 else 1}f} times {word}"
