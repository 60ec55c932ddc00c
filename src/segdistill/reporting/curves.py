"""A run's curves over its epochs, for its report and for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segdistill.reporting import charts
from segdistill.reporting.charts import Curve
from segdistill.reporting.page import Figure, Figures, Paragraph, fragment

HELD_OUT = "val/loss"
"""The column of history.csv that a pre-training alone has."""

_NAMES = {"val/miou": "this run", HELD_OUT: "held-out images"}


@dataclass(frozen=True)
class RunCurves:
    """A run's curves, which a notebook shows as charts.

    Attributes:
        figures: mIoU and loss terms by epoch; none where there are fewer than two epochs.
    """

    figures: tuple[Figure, ...]

    def _repr_html_(self) -> str:
        """Return the charts as HTML."""
        if not self.figures:
            return fragment([Paragraph("No curve yet: a curve needs two epochs.")])
        # A report has a style sheet that says this; a notebook has none.
        return f'<div style="max-width: 34rem; fill: currentColor">{fragment([Figures(self.figures)])}</div>'


def curve_figures(history: Sequence[Mapping[str, float]], teacher_miou: float | None) -> list[Figure]:
    """Draw every loss term and the mIoU on the validation images over the epochs.

    Args:
        history: the numbers of each epoch, by column of history.csv.
        teacher_miou: the teacher's mIoU in percent, drawn as a level; None where it is not known.
    """
    columns = dict.fromkeys(key for row in history for key in row)
    losses = [column for column in columns if column.startswith("loss/") or column == HELD_OUT]
    caption = "Each term of the loss on the training images; lower is better."
    if HELD_OUT in columns:
        caption = "Each term of the loss on the training images, and their sum on held-out images; lower is better."
    figures = []
    for title, shown, y, level, words in (
        ("mIoU by epoch", ["val/miou"], "validation mIoU in %", teacher_miou, "mIoU on the validation images."),
        ("loss by epoch", losses, "loss", None, caption),
    ):
        curves = []
        for column in shown:
            points = [(row["epoch"], row[column]) for row in history if column in row]
            if len(points) > 1:
                name = _NAMES.get(column, column.partition("/")[2])
                curves.append(Curve(name, *map(list, zip(*points, strict=True))))
        if not curves:
            continue
        if level is not None:
            curves.append(Curve("teacher", [0.0], [level]))
        looks = charts.styles([curve.name for curve in curves], plain=("teacher",))
        figures.append(Figure(charts.lines(title, curves, looks, "epoch", y), words))
    return figures
