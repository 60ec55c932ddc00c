"""A comparison as a table, for the terminal and for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from segdistill.comparison import verdict
from segdistill.metrics.scores import percent
from segdistill.progress import counted
from segdistill.reporting import page

if TYPE_CHECKING:
    from segdistill.comparison.results import Comparison, Row, Summary

_HEADINGS = ("mIoU", "minus none", "gap closed", "BIoU", "connect.", "train s")


def comparison_table(comparison: Comparison) -> Table:
    """All methods as a table for the terminal."""
    table = Table(title=_title(comparison), title_justify="left", caption=_caption(comparison), caption_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in comparison.rows:
        table.add_row(*_cells_of(row))
    table.add_section()
    table.add_row(*_cells_of(comparison.teacher))
    return table


def comparison_html(comparison: Comparison) -> str:
    """Return the verdict, the warnings and the table of all methods as HTML for a notebook."""
    rows = [_cells_of(row) for row in (*comparison.rows, comparison.teacher)]
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


def _caption(comparison: Comparison) -> str:
    level = next((row.difference.level for row in comparison.rows if row.difference is not None), 0.95)
    return (
        f"mIoU: mean (least to most over seeds); in brackets behind difference and gap {100 * level:g}% intervals; "
        "BIoU: boundary IoU; connect.: connectivity error, 0 is best; all in %"
    )


def _cells_of(row: Row) -> list[str]:
    difference = ""
    if row.difference is not None:
        found = row.difference
        difference = f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
    return [
        row.method,
        _spread(row.miou),
        difference,
        "" if row.difference is None or row.method == "teacher" else verdict.closure(row.gap),
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
    return f"{summary.mean:.2f} ({summary.least:.2f} to {summary.most:.2f})"
