"""The page of a recommendation: what to train, the rungs that say so, and where the comparisons are."""

from __future__ import annotations

from pathlib import Path

from segdistill.comparison.advice import Advice, Rung
from segdistill.comparison.in_short import EXPLANATION, INTRODUCTION
from segdistill.comparison.options import BASELINE, CALLED, called
from segdistill.comparison.verdict import as_cell
from segdistill.files import write_text
from segdistill.progress import counted
from segdistill.reporting import charts
from segdistill.reporting.charts import Point
from segdistill.reporting.names import network_name
from segdistill.reporting.page import (
    Block,
    Bullets,
    Figure,
    Figures,
    Fold,
    Listing,
    Page,
    Paragraph,
    Section,
    Table,
)


def write_advice(found: Advice, path: Path) -> None:
    """Writes a recommendation as one HTML page that opens from disk and needs nothing else.

    Args:
        found: the recommendation.
        path: of the page.

    Raises:
        UserError: if the page cannot be written.
    """
    said: list[Block] = [
        Paragraph(found.text, "lead"),
        Paragraph(INTRODUCTION, "note"),
        Bullets([f"{note[:1].upper()}{note[1:].removesuffix('.')}." for note in found.notes], "warnings"),
        Fold("What do these words mean?", [Paragraph(EXPLANATION)]),
    ]
    again = [
        Paragraph("This command makes it again, or continues it where it was stopped:"),
        Listing(found.command, "command"),
    ]
    sections = [
        Section("verdict", "Recommendation", said),
        *(Section(f"rung-{number}", f"Runs of {rung.told}", _rung(rung)) for number, rung in enumerate(found.rungs, 1)),
        Section("again", "How it was made", again),
    ]
    first = found.rungs[0]
    methods = ", ".join(called(one.method) for one in first.standings)
    images = counted(len(first.comparison.ids), "validation image")
    summary = f"Tried: {methods}; {images}. Folder: {found.folder.name}"
    student = network_name(str(first.comparison.recipe.get("student", "the student")))
    write_text(path, Page(f"How to train {student}", summary, sections).render())


def _rung(rung: Rung) -> list[Block]:
    rows = [
        [
            called(one.method),
            "–" if one.miou is None else f"{one.miou:.2f}",
            as_cell(one.difference),
            as_cell(one.to_best),
            "–" if one.seconds is None else f"{one.seconds:.0f}",
            one.said,
        ]
        for one in rung.standings
    ]
    points = [
        Point(one.method, one.difference.difference, one.difference.low, one.difference.high)
        for one in rung.standings
        if one.difference is not None
    ]
    looks = charts.styles([one.method for one in rung.standings], plain=(BASELINE,), called=CALLED)
    title = f"gain in mIoU after {rung.told}"
    chart = charts.intervals(title, points, looks, f"mIoU gained over the {CALLED[BASELINE]}, in points")
    return [
        Table(
            "mIoU in percent; gains in points, with 95 % intervals below",
            [
                "method",
                "mIoU",
                f"gain over {called(BASELINE)}",
                f"gain over {called(rung.best.method)}, the best",
                "training s",
                "decision",
            ],
            rows,
            words=["decision"],
        ),
        Figures([Figure(chart, "A line right of 0 is a gain; a line that crosses 0 shows no difference.")]),
        Paragraph(f"The whole comparison is in {rung.comparison.folder / 'report.html'}.", "note"),
    ]
