"""The page of a recommendation: what to train, the rungs that say so, and where the comparisons lie."""

from __future__ import annotations

from pathlib import Path

from segdistill.comparison.advice import Advice, Rung
from segdistill.comparison.results import BASELINE
from segdistill.comparison.verdict import as_cell, epochs_told
from segdistill.files import write_text
from segdistill.reporting import charts, markup
from segdistill.reporting.charts import Point


def write_advice(found: Advice, path: Path) -> None:
    """Writes a recommendation as one HTML page that opens from disk and needs nothing else.

    Args:
        found: the recommendation.
        path: of the page.

    Raises:
        UserError: if the page cannot be written.
    """
    said = markup.paragraph(found.text, "verdict") + markup.bullets(found.notes, "warnings")
    again = markup.paragraph("This makes it again, or goes on with it:") + markup.listing(found.command, "command")
    sections = [
        ("verdict", "Recommendation", said),
        *(
            (f"rung-{number}", f"Runs of {epochs_told(rung.epochs)}", _rung(rung))
            for number, rung in enumerate(found.rungs, 1)
        ),
        ("again", "Command", again),
    ]
    first = found.rungs[0]
    methods = ", ".join(one.method for one in first.standings)
    images = len(first.comparison.ids)
    summary = f"Tried: {methods}; {images} validation {'image' if images == 1 else 'images'}"
    write_text(path, markup.page(f"Advice {found.folder.name}", summary, sections))


def _rung(rung: Rung) -> str:
    table = markup.table(
        "mIoU in percent, differences in points with 95% intervals below",
        ["method", "mIoU", f"minus {BASELINE}", f"minus {rung.best.method}, the best", "training s", "then"],
        [
            [
                one.method,
                "–" if one.miou is None else f"{one.miou:.2f}",
                as_cell(one.difference),
                as_cell(one.to_best),
                "–" if one.seconds is None else f"{one.seconds:.0f}",
                one.said,
            ]
            for one in rung.standings
        ],
        words=["then"],
    )
    points = [
        Point(one.method, one.difference.difference, one.difference.low, one.difference.high)
        for one in rung.standings
        if one.difference is not None
    ]
    looks = charts.styles([one.method for one in rung.standings], plain=(BASELINE,))
    title = f"difference to {BASELINE} after {epochs_told(rung.epochs)}"
    chart = charts.intervals(title, points, looks, f"mIoU minus that of {BASELINE}, in points")
    where = markup.paragraph(f"All of it is in {rung.comparison.folder / 'report.html'}.", "note")
    return table + markup.figure(chart, "An interval that holds 0 shows no difference.") + where
