"""A comparison as a table, for the terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from segdistill.comparison import verdict
from segdistill.comparison.options import called, in_commands
from segdistill.metrics.scores import percent
from segdistill.progress import counted
from segdistill.reporting import page

if TYPE_CHECKING:
    from segdistill.comparison.results import Comparison, Row, Summary

_HEADINGS = ("mIoU", "gain over student alone", "gap closed", "boundary IoU", "connectivity error", "training s")
_IN_WIDE_TABLES = ("boundary IoU", "connectivity error")

#: Least width of a terminal, in columns, in which the words of all columns are whole.
FULL_WIDTH = 104


def comparison_table(comparison: Comparison, width: int = FULL_WIDTH) -> Table:
    """All methods as a table for the terminal.

    Args:
        comparison: what was found.
        width: of the terminal. Below `FULL_WIDTH` the scores of boundaries and objects are left out, for the words of
            the other columns to stay whole; report.html has them.
    """
    left_out = () if width >= FULL_WIDTH else _IN_WIDE_TABLES
    headings = ["method", *_HEADINGS, "verdict"]
    kept = [place for place, heading in enumerate(headings) if heading not in left_out]
    table = narrow_table(_title(comparison), _caption(comparison, left_out))
    for place in kept:
        table.add_column(headings[place], justify="right" if headings[place] in _HEADINGS else "left", overflow="fold")
    for row in (*comparison.rows, comparison.teacher):
        cells = _cells_of(row)
        table.add_row(*(cells[place] for place in kept))
    return table


def narrow_table(title: str, caption: str) -> Table:
    """Return an empty table whose columns have little between them: their words are whole in 80 columns, too."""
    style: dict[str, Any] = {"box": box.HORIZONTALS, "padding": 0, "show_lines": True}
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left", **style)


def comparison_html(comparison: Comparison) -> str:
    """Return the verdict, the warnings and the table of all methods as HTML for a notebook."""
    rows = [[text.replace("\n", " ") for text in _cells_of(row)] for row in (*comparison.rows, comparison.teacher)]
    return page.fragment(
        [
            page.Paragraph(comparison.verdict, "verdict"),
            page.Bullets(comparison.warnings, "warnings"),
            page.Table(_title(comparison), ["method", *_HEADINGS, "verdict"], rows, words=["verdict"]),
            page.Paragraph(_caption(comparison), "note"),
        ]
    )


def _title(comparison: Comparison) -> str:
    return counted(len(comparison.ids), "validation image")


def _caption(comparison: Comparison, left_out: Sequence[str] = ()) -> str:
    level = next((row.difference.level for row in comparison.rows if row.difference is not None), 0.95)
    return (
        f"scores in %, gains in points; mIoU: mean over seeds (least to most); gain and gap: with {100 * level:g} % "
        "intervals in brackets; "
        + ("boundaries and objects: see report.html; " if left_out else "connectivity error: 0 is best; ")
        + in_commands([row.method for row in comparison.rows])
    )


def _cells_of(row: Row) -> list[str]:
    difference = ""
    if row.difference is not None:
        found = row.difference
        difference = f"{found.difference:+.2f}\n({found.low:+.2f} to {found.high:+.2f})"
    return [
        called(row.method),
        _spread(row.miou),
        difference,
        "" if row.difference is None or row.method == "teacher" else verdict.closure(row.gap).replace(" (", "\n("),
        "" if row.boundary_iou is None else f"{row.boundary_iou.mean:.2f}",
        "" if row.connectivity_error is None else f"{row.connectivity_error.mean:.2f}",
        "" if row.seconds is None else f"{row.seconds:.0f}",
        row.verdict,
    ]


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return ""
    if len(summary.runs) == 1:
        return percent(summary.mean)
    return f"{summary.mean:.2f}\n({summary.least:.2f} to {summary.most:.2f})"
