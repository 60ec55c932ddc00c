"""The charts and tables of a comparison's report: sizes, classes, boundaries, objects, training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segdistill.comparison.options import BASELINE, CALLED, called
from segdistill.comparison.report_networks import Seen
from segdistill.comparison.results import Comparison, Row, Summary
from segdistill.reporting import charts
from segdistill.reporting.charts import Curve, Point, Style
from segdistill.reporting.page import Block, Figure, Figures, Fold, Paragraph, Table
from segdistill.run_folder import RunFolder

#: Classes in a chart; tables have all of them.
CHARTED_CLASSES = 20

#: A score over runs, by class and method; None where it has none.
ClassScores = dict[str, dict[str, Summary | None]]

DASH = "–"

#: What is counted of objects: key in ``evaluation["connectivity"]`` and name.
_OBJECT_ERRORS = {"split": "broken", "merged": "joined", "missed": "missed", "false_islands": "invented"}


def cost(measured: Sequence[Row], looks: Mapping[str, Style], seen: Seen) -> list[Block]:
    """Accuracy against time and against size."""
    figures = []
    sizes: list[tuple[str, Callable[[Row], float | None], str]] = [
        ("milliseconds per image", lambda row: seen.milliseconds.get(row.method), f"on {seen.where}"),
        ("parameters in millions", lambda row: row.parameters and row.parameters / 1e6, "of the network"),
    ]
    for name, size, of in sizes:
        points = []
        for row in measured:
            at = size(row)
            if row.miou is not None and at:
                points.append(Point(row.method, row.miou.mean, row.miou.least, row.miou.most, at))
        if points:
            caption = (
                f"mIoU against {name} {of}: best is top left. Bars go from the least to the most over seeds. Networks "
                "of equal cost are drawn side by side."
            )
            figures.append(Figure(charts.scatter(f"mIoU against {name}", points, looks, name, "mIoU in %"), caption))
    return [Figures(figures)] if figures else []


def classes(measured: Sequence[Row], names: Sequence[str], looks: Mapping[str, Style]) -> list[Block]:
    """IoU of each class, and what each method gained in it."""
    if not measured:
        return []
    scores = _by_class(measured, names, lambda evaluation: evaluation["iou"])
    return [
        Figures([*_bars_by_class("IoU", scores, looks), *_class_differences(scores, looks)]),
        Fold("IoU of all classes as a table", [_class_table("IoU by class, in percent", scores, measured)]),
    ]


def boundaries(measured: Sequence[Row], names: Sequence[str], looks: Mapping[str, Style]) -> list[Block]:
    """Scores near the boundaries between classes."""
    if not measured:
        return []
    figures = []
    for key, title, x, y, caption in (
        (
            "mean_boundary_f1",
            "boundary F1 by tolerance",
            "tolerance in pixels",
            "boundary F1 in %",
            "Boundary F1: how much of the boundaries between classes lies where it should, within so many pixels.",
        ),
        (
            "trimap_miou",
            "mIoU near boundaries",
            "distance from a boundary in pixels, at most",
            "mIoU in %",
            "mIoU of those pixels alone that are this close to a boundary of the labels.",
        ),
    ):
        curves = []
        for row in measured:
            values = _by_pixels([evaluation["boundary"][key] for evaluation in _evaluations(row)])
            if len(values) > 1:
                curves.append(Curve(row.method, list(values), list(values.values())))
        if curves:
            figures.append(Figure(charts.lines(title, curves, looks, x, y), caption))
    scores = _by_class(measured, names, lambda evaluation: evaluation["boundary"]["boundary_iou"])
    table = _class_table("Boundary IoU by class, in percent", scores, measured)
    return [
        Figures([*figures, *_bars_by_class("Boundary IoU", scores, looks)]),
        Fold("Boundary IoU of all classes as a table", [table]),
    ]


def objects(measured: Sequence[Row], names: Sequence[str], looks: Mapping[str, Style]) -> list[Block]:
    """Objects that are broken, joined, missed or invented."""
    if not measured:
        return []
    groups: list[list[Point]] = []
    for key in _OBJECT_ERRORS:
        group = []
        for row in measured:
            shares = [_per_hundred(evaluation["connectivity"], key) for evaluation in _evaluations(row)]
            found = [share for share in shares if share is not None]
            if found:
                group.append(Point(row.method, sum(found) / len(found), min(found), max(found)))
        groups.append(group)
    figures = []
    if any(groups):
        unit = "per 100 objects of the labels"
        chart = charts.bars("errors of objects", list(_OBJECT_ERRORS.values()), groups, looks, unit)
        caption = (
            "An object is a connected area of one class. Broken: predicted in several pieces. Joined: predicted in one "
            "piece with others. Missed: not predicted. Invented: predicted where there is none."
        )
        figures.append(Figure(chart, caption))
    scores = _by_class(measured, names, lambda evaluation: evaluation["connectivity"]["class_error"])
    table = _class_table("Connectivity error by class, in percent, 0 is best", scores, measured)
    return [
        Figures([*figures, *_bars_by_class("Connectivity error", scores, looks)]),
        Fold("Connectivity error of all classes as a table", [table]),
        *_broken_lines(measured),
    ]


def _broken_lines(measured: Sequence[Row]) -> list[Block]:
    """The broken length of classes that are lines, where it was measured."""
    broken = [evaluation["connectivity"].get("line_broken", {}) for row in measured for evaluation in _evaluations(row)]
    names = list(dict.fromkeys(name for by_class in broken for name in by_class))
    if not names:
        return []
    scores = _by_class(measured, names, lambda evaluation: evaluation["connectivity"].get("line_broken", {}))
    return [_class_table("Broken length of lines, in percent", scores, measured)]


def training(comparison: Comparison, looks: Mapping[str, Style]) -> list[Block]:
    """Curves of every cell with a history, finished or not."""
    by_epoch: dict[str, list[Curve]] = {"val/miou": [], "loss/task": []}
    by_time: list[Curve] = []
    for row in comparison.rows:
        for cell in row.cells:
            history = RunFolder(cell.run).read_numbers()
            for column, curves in by_epoch.items():
                points = [(line["epoch"], line[column]) for line in history if column in line]
                if len(points) > 1:
                    curves.append(Curve(row.method, *map(list, zip(*points, strict=True))))
            spent, timed = 0.0, []
            for line in history:
                spent += line.get("seconds", 0.0)
                if "val/miou" in line:
                    timed.append((spent, line["val/miou"]))
            if len(timed) > 1:
                by_time.append(Curve(row.method, *map(list, zip(*timed, strict=True))))
    teacher = comparison.teacher.miou
    level = [] if teacher is None else [Curve("teacher", [0.0], [teacher.mean])]
    miou, loss = "validation mIoU in %", "loss on the labels"
    wanted: tuple[tuple[str, list[Curve], list[Curve], str, str, str], ...] = (
        ("mIoU by epoch", by_epoch["val/miou"], level, "epoch", miou, "mIoU on the validation images after each epoch, "
         "a line for each seed; the teacher's is the level line."),
        ("mIoU by seconds", by_time, level, "seconds of training", miou, "The same against the seconds of training; "
         "what a method does before the first epoch counts."),
        ("task loss by epoch", by_epoch["loss/task"], [], "epoch", loss, "The loss on the labels, without the terms "
         "that compare student and teacher."),
    )  # fmt: skip
    figures = [
        Figure(charts.lines(title, [*curves, *extra], looks, x, y), caption)
        for title, curves, extra, x, y, caption in wanted
        if curves
    ]
    if figures:
        return [Figures(figures)]
    return [Paragraph("No run has a history.csv of two epochs or more.", "note")]


def _bars_by_class(score: str, scores: ClassScores, looks: Mapping[str, Style]) -> list[Figure]:
    """A group of bars for each class."""
    points = {
        name: [Point(method, one.mean, one.least, one.most) for method, one in by_method.items() if one is not None]
        for name, by_method in scores.items()
    }
    caption = f"{score} by class: mean over seeds, and a line from the least to the most."
    return _charted(f"{score} by class", f"{score} in %", points, looks, caption)


def _class_differences(scores: ClassScores, looks: Mapping[str, Style]) -> list[Figure]:
    """For each class a bar of each method's IoU minus the baseline's."""
    points: dict[str, list[Point]] = {}
    for name, by_method in scores.items():
        baseline = by_method.get(BASELINE)
        points[name] = []
        for method, one in by_method.items():
            if baseline is not None and one is not None and method not in (BASELINE, "teacher"):
                gained = one.mean - baseline.mean
                points[name].append(Point(method, gained, gained, gained))
    caption = (
        "What each method gained in each class: its IoU minus that of the student alone, means over seeds. There are "
        "no intervals here, so read it with care: single classes vary more than the mean of all."
    )
    return _charted("gain by class", f"IoU gained over the {CALLED[BASELINE]}, in points", points, looks, caption)


def _charted(
    title: str, unit: str, points: Mapping[str, list[Point]], looks: Mapping[str, Style], caption: str
) -> list[Figure]:
    """Bars by class as a figure, of at most `CHARTED_CLASSES`: those in which methods differ most; or nothing."""

    def spread(name: str) -> float:
        values = [point.value for point in points[name]]
        return max(values) - min(values)

    present = [name for name in points if points[name]]
    kept = set(sorted(present, key=spread, reverse=True)[:CHARTED_CLASSES])
    names = [name for name in present if name in kept]
    if not names:
        return []
    fewer = f" Of the {len(present)} classes the {len(names)} in which methods differ most."
    chart = charts.bars(title, names, [points[name] for name in names], looks, unit)
    return [Figure(chart, caption + (fewer if len(names) < len(present) else ""))]


def _class_table(caption: str, scores: ClassScores, measured: Sequence[Row]) -> Table:
    rows = [[name, *(mean_and_range(each[row.method]) for row in measured)] for name, each in scores.items()]
    return Table(caption, ["class", *(called(row.method) for row in measured)], rows)


def _evaluations(row: Row) -> list[dict[str, Any]]:
    return [cell.evaluation for cell in row.cells if cell.evaluation is not None]


def _by_class(
    measured: Sequence[Row], names: Sequence[str], pick: Callable[[dict[str, Any]], Mapping[str, float | None]]
) -> ClassScores:
    """A score of each class and method, from what ``pick`` takes out of an evaluation."""
    found: ClassScores = {}
    for name in names:
        found[name] = {}
        for row in measured:
            runs = [pick(evaluation).get(name) for evaluation in _evaluations(row)]
            values = tuple(value for value in runs if value is not None)
            found[name][row.method] = Summary(values) if values else None
    return found


def _by_pixels(runs: Sequence[Mapping[Any, float | None]]) -> dict[float, float]:
    """The mean over runs of a score, by distance in pixels, ascending; keys are numbers or, from JSON, texts."""
    found: dict[float, list[float]] = {}
    for run in runs:
        for pixels, value in run.items():
            if value is not None:
                found.setdefault(float(pixels), []).append(value)
    return {pixels: sum(found[pixels]) / len(found[pixels]) for pixels in sorted(found)}


def _per_hundred(connectivity: Mapping[str, Any], key: str) -> float | None:
    of_labels = sum(connectivity["reference"].values())
    return 100 * sum(connectivity[key].values()) / of_labels if of_labels else None


def mean_and_range(summary: Summary | None) -> str:
    """A score in a table's cell: the mean over seeds, least and most below; a dash where there is none."""
    if summary is None:
        return DASH
    if len(summary.runs) == 1:
        return f"{summary.mean:.2f}"
    return f"{summary.mean:.2f}\n{summary.least:.2f} to {summary.most:.2f}"
