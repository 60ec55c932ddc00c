"""The page of a comparison: what was found, how sure it is, what it looks like, and how to make it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import track

from segdistill.comparison.results import BASELINE, EQUAL_TIME, Comparison, Row, Summary
from segdistill.comparison.verdict import as_cell, closure
from segdistill.datasets import SegmentationDataset
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.evaluation.latency import latency_ms
from segdistill.files import write_text
from segdistill.metrics.scores import percent
from segdistill.networks.loading import load_network, load_run
from segdistill.networks.network import Network
from segdistill.recipe.data import build_split
from segdistill.reporting import charts, gallery, markup
from segdistill.reporting.charts import Curve, Point, Style
from segdistill.reporting.picture import predict
from segdistill.run_folder import RunFolder

#: Images in the gallery.
IMAGES = 8

#: Classes in a chart; tables have all of them.
CHARTED_CLASSES = 20

#: A score over runs, by class and method; None where it has none.
ClassScores = dict[str, dict[str, Summary | None]]

_DASH = "–"

_MEANINGS = {
    "teacher": "the large network",
    BASELINE: "the student alone",
    EQUAL_TIME: "the student alone, for as long in seconds",
}

#: What is counted of objects: key in ``evaluation["connectivity"]`` and name.
_OBJECT_ERRORS = {"split": "broken", "merged": "joined", "missed": "missed", "false_islands": "invented"}


def write_report(comparison: Comparison, path: Path, device: str = "cpu", quiet: bool = True) -> None:
    """Writes a comparison as one HTML page that opens from disk and needs nothing else.

    Whatever is missing, cells that failed, data or networks that are no longer there, is told on the page instead.

    Args:
        comparison: what was found.
        path: of the page.
        device: where predictions and times are measured: auto, cpu, cuda, cuda:N or mps.
        quiet: no progress bar.

    Raises:
        UserError: if there is no such device, or the page cannot be written.
    """
    rows = [comparison.teacher, *comparison.rows]
    looks = charts.styles([row.method for row in rows], plain=("teacher", BASELINE, EQUAL_TIME))
    seen = _look(comparison, device, quiet)
    images = len(comparison.ids)
    seeds = max(len(row.cells) for row in comparison.rows)
    summary = (
        f"{len(comparison.rows)} ways to train {comparison.recipe.get('student', 'the student')}, "
        f"{_count(seeds, 'seed')}, {_count(images, 'validation image')}, {_count(len(comparison.classes), 'class')}"
    )
    measured = [row for row in rows if row.finished]
    sections = [
        ("verdict", "Verdict", _verdict(comparison, looks)),
        ("methods", "Methods", _methods(comparison, seen)),
        ("cost", "Accuracy and cost", _cost(measured, looks, seen)),
        ("classes", "Classes", _classes(measured, comparison.classes, looks)),
        ("boundaries", "Boundaries", _boundaries(measured, comparison.classes, looks)),
        ("objects", "Broken and missing objects", _objects(measured, comparison.classes, looks)),
        ("training", "Training", _training(comparison, looks)),
        ("images", "Images", _images(measured, seen)),
        ("recipe", "Recipe", _recipe(comparison)),
    ]
    write_text(path, markup.page(f"Comparison {comparison.folder.name}", summary, sections))


@dataclass
class _Seen:
    """What the networks themselves were asked for.

    Attributes:
        where: the device.
        milliseconds: for one image, by method.
        scenes: for the gallery, see `gallery.scene_values`.
        dataset: the validation split; None where it cannot be read.
        notes: what could not be done, and why.
    """

    where: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    dataset: SegmentationDataset | None = None
    notes: list[str] = field(default_factory=list)


def _look(comparison: Comparison, device: str, quiet: bool) -> _Seen:
    """Loads a network of each row, one after the other, times it and lets it predict the images of the gallery."""
    chosen = choose_device(device)
    seen = _Seen(str(chosen))
    measured = [row for row in (comparison.teacher, *comparison.rows) if row.finished]
    pictures: list[gallery.Scene] = []
    try:
        dataset = build_split(comparison.recipe["data"], "val")
        if dataset.ids != comparison.ids:
            raise UserError("the validation images have changed since the comparison was made")
        pictures = [gallery.read_scene(dataset, index) for index in _chosen_images(measured)]
        seen.dataset = dataset
    except UserError as error:
        seen.notes.append(f"No images: {error}.")
    console = Console(quiet=quiet)
    bar = track(measured, "predicting", console=console, transient=True, disable=quiet or not console.is_terminal)
    times: dict[tuple[int | None, int | None], float] = {}  # equal networks take equal time
    for row in bar:
        try:
            network = _network(row, comparison, 3 if seen.dataset is None else seen.dataset.in_channels).to(chosen)
        except UserError as error:
            seen.notes.append(f"No predictions of {row.method}: {error}.")
            continue
        cost = (row.parameters, row.macs)
        if cost not in times:
            height, width = _evaluations(row)[0].get("size", (256, 256))
            times[cost] = latency_ms(network, (height, width))
        seen.milliseconds[row.method] = times[cost]
        for picture in pictures:
            picture.predictions[row.method] = predict(network, picture.image)
    if seen.dataset is not None:
        scores = gallery.image_scores(_confusion(measured))
        values = (gallery.scene_values(picture, seen.dataset) for picture in pictures)
        seen.scenes = gallery.within(values)
        for picture, scene in zip(pictures, seen.scenes, strict=False):
            scene["note"] = ", ".join(f"{name} {each[picture.index]:.1f}" for name, each in scores.items())
    return seen


def _network(row: Row, comparison: Comparison, in_channels: int) -> Network:
    """The network of a row's first finished cell."""
    if row.method != "teacher":
        return load_run(row.finished[0].run)
    spec = str(comparison.recipe["teacher"])
    weights = comparison.recipe.get("teacher_weights")
    return load_network(spec, None if Path(spec).is_dir() else len(comparison.classes), in_channels, weights)


def _confusion(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {row.method: [cell.confusion for cell in row.finished if cell.confusion is not None] for row in rows}


def _chosen_images(measured: Sequence[Row]) -> list[int]:
    """Those on which students differ most; the teacher only helps out where there is but one."""
    students = [row for row in measured if row.method != "teacher"]
    confusion = _confusion(students if len(students) > 1 else measured)
    return gallery.most_different(confusion, IMAGES) if confusion else []


def _verdict(comparison: Comparison, looks: Mapping[str, Style]) -> str:
    points = [
        Point(row.method, row.difference.difference, row.difference.low, row.difference.high)
        for row in comparison.rows
        if row.difference is not None
    ]
    content = markup.paragraph(comparison.verdict, "verdict") + markup.bullets(comparison.warnings, "warnings")
    if not points:
        return content
    chart = charts.intervals("difference to none", points, looks, f"mIoU minus that of {BASELINE}, in points")
    return content + markup.figure(
        chart,
        f"Difference in mIoU to the student alone, with {_intervals(comparison)}. "
        "An interval that holds 0 shows no difference.",
    )


def _methods(comparison: Comparison, seen: _Seen) -> str:
    timed = any(row.method == EQUAL_TIME for row in comparison.rows)
    gains, costs = [], []
    for row in (*comparison.rows, comparison.teacher):
        name = f"{row.method}\n{_MEANINGS.get(row.method, '')}"
        seeds = _DASH if row.method == "teacher" else f"{len(row.finished)} of {len(row.cells)}"
        closed = _DASH if row.gap is None or row.gap.closed is None else closure(row.gap).replace(" (", "\n(")
        at_time = [as_cell(row.difference_at_time)] * timed
        gains.append([name, seeds, _mean_and_range(row.miou), as_cell(row.difference), *at_time, closed, row.verdict])
        costs.append(
            [
                name,
                _mean_and_range(row.boundary_iou),
                _mean_and_range(row.boundary_f1),
                _mean_and_range(row.connectivity_error),
                _DASH if row.seconds is None else f"{row.seconds:.0f}",
                _DASH if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
                _DASH if row.macs is None else f"{row.macs / 1e9:.2f} G",
                f"{seen.milliseconds[row.method]:.1f}" if row.method in seen.milliseconds else _DASH,
            ]
        )
    minus = [f"minus {BASELINE}", *[f"minus {EQUAL_TIME}"] * timed]
    return (
        markup.table(
            "mIoU in percent, differences in points",
            ["method", "seeds", "mIoU", *minus, "gap closed", "verdict"],
            gains,
            words=["verdict"],
        )
        + markup.table(
            "Boundaries and objects in percent, and what each costs",
            [
                "method",
                "boundary IoU",
                "boundary F1",
                "connectivity error",
                "training s",
                "parameters",
                "MACs",
                "ms / image",
            ],
            costs,
        )
        + markup.paragraph(
            "Scores are means over seeds, with least and most below. Below differences, and below the share of the gap "
            f"to the teacher that was closed, stand {_intervals(comparison)}. Boundary F1 forgives 3 pixels; "
            "a connectivity error of 0 is best. Milliseconds are those of one image in float32 on "
            f"{seen.where}, measured when this page was written.",
            "note",
        )
    )


def _cost(measured: Sequence[Row], looks: Mapping[str, Style], seen: _Seen) -> str:
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
            chart = charts.scatter(f"mIoU against {name}", points, looks, name, "mIoU in %")
            figures.append(
                markup.figure(
                    chart,
                    f"mIoU against {name} {of}; bars go from the least to the most over seeds. Networks of equal cost "
                    "stand side by side.",
                )
            )
    return markup.side_by_side(figures)


def _classes(measured: Sequence[Row], classes: Sequence[str], looks: Mapping[str, Style]) -> str:
    if not measured:
        return ""
    scores = _by_class(measured, classes, lambda evaluation: evaluation["iou"])
    figures = [_bars_by_class("IoU", scores, looks), _class_differences(scores, looks)]
    return markup.side_by_side(figures) + markup.fold(
        "IoU of all classes as a table", _class_table("IoU by class, in percent", scores, measured)
    )


def _boundaries(measured: Sequence[Row], classes: Sequence[str], looks: Mapping[str, Style]) -> str:
    if not measured:
        return ""
    figures = []
    for key, title, x, y, caption in (
        (
            "mean_boundary_f1",
            "boundary F1 by tolerance",
            "tolerance in pixels",
            "boundary F1 in %",
            "Mean boundary F1: how much of the boundaries lies where it should, within so many pixels.",
        ),
        (
            "trimap_miou",
            "mIoU near boundaries",
            "distance from a boundary in pixels, at most",
            "mIoU in %",
            "Trimap: mIoU of the pixels that close to a boundary of the labels.",
        ),
    ):
        curves = []
        for row in measured:
            values = _by_pixels([evaluation["boundary"][key] for evaluation in _evaluations(row)])
            if len(values) > 1:
                curves.append(Curve(row.method, list(values), list(values.values())))
        if curves:
            figures.append(markup.figure(charts.lines(title, curves, looks, x, y), caption))
    scores = _by_class(measured, classes, lambda evaluation: evaluation["boundary"]["boundary_iou"])
    return markup.side_by_side([*figures, _bars_by_class("Boundary IoU", scores, looks)]) + markup.fold(
        "Boundary IoU as a table", _class_table("Boundary IoU by class, in percent", scores, measured)
    )


def _objects(measured: Sequence[Row], classes: Sequence[str], looks: Mapping[str, Style]) -> str:
    if not measured:
        return ""
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
        chart = charts.bars(
            "errors of objects", list(_OBJECT_ERRORS.values()), groups, looks, "per 100 objects of the labels"
        )
        figures.append(
            markup.figure(
                chart,
                "Connected components of the labels that are predicted in several pieces, in one piece with others, or "
                "not at all, and predicted ones that are none.",
            )
        )
    scores = _by_class(measured, classes, lambda evaluation: evaluation["connectivity"]["class_error"])
    return (
        markup.side_by_side([*figures, _bars_by_class("Connectivity error", scores, looks)])
        + markup.fold(
            "Connectivity error as a table",
            _class_table("Connectivity error by class, in percent, 0 is best", scores, measured),
        )
        + _broken_lines(measured)
    )


def _broken_lines(measured: Sequence[Row]) -> str:
    """The broken length of classes that are lines, where it was measured."""
    broken = [evaluation["connectivity"].get("line_broken", {}) for row in measured for evaluation in _evaluations(row)]
    names = list(dict.fromkeys(name for by_class in broken for name in by_class))
    if not names:
        return ""
    scores = _by_class(measured, names, lambda evaluation: evaluation["connectivity"].get("line_broken", {}))
    return _class_table("Broken length of lines, in percent", scores, measured)


def _training(comparison: Comparison, looks: Mapping[str, Style]) -> str:
    """Curves of every cell with a history, finished or not."""
    by_epoch: dict[str, list[Curve]] = {"val/miou": [], "loss/task": []}
    by_time: list[Curve] = []
    for row in comparison.rows:
        for cell in row.cells:
            history = _history(RunFolder(cell.run))
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
    figures = [
        markup.figure(charts.lines(title, [*curves, *extra], looks, x, y), caption)
        for title, curves, extra, x, y, caption in (
            (
                "mIoU by epoch",
                by_epoch["val/miou"],
                level,
                "epoch",
                "validation mIoU in %",
                "Validation mIoU, a line for each seed; the teacher's as a level.",
            ),
            (
                "mIoU by seconds",
                by_time,
                level,
                "seconds of training",
                "validation mIoU in %",
                "The same over the seconds spent, a method's pre-stage included.",
            ),
            (
                "task loss by epoch",
                by_epoch["loss/task"],
                [],
                "epoch",
                "task loss",
                "The loss against the labels alone.",
            ),
        )
        if curves
    ]
    return markup.side_by_side(figures) or markup.paragraph("No run has a history.csv of two epochs or more.", "note")


def _history(run: RunFolder) -> list[dict[str, float]]:
    """The numbers of each epoch; what is empty is left out."""
    return [{key: float(text) for key, text in line.items() if text} for line in run.read_history()]


def _images(measured: Sequence[Row], seen: _Seen) -> str:
    notes = "".join(markup.paragraph(note, "warning") for note in seen.notes)
    if not seen.scenes or seen.dataset is None:
        return notes
    shown = [row for row in measured if row.method in seen.milliseconds]
    layers = {"image": "image", "truth": "truth"}
    for row in shown:
        meaning = _MEANINGS.get(row.method)
        layers[row.method] = f"{row.method} ({meaning})" if meaning else row.method
    candidates = [row for row in shown if row.method not in ("teacher", BASELINE, EQUAL_TIME)]
    best = max(candidates or shown, key=lambda row: row.miou.mean if row.miou else 0.0, default=None)
    left = BASELINE if BASELINE in layers else "truth"
    explained = markup.paragraph(
        f"The {_count(len(seen.scenes), 'validation image')} on which the students differ most in mIoU, which is given "
        "below each: extremes, not what is usual. Predictions are those of each method's first finished seed; of "
        "images that are too large, a part is shown. Mistakes: near a boundary is as near as Boundary IoU looks; "
        "objects are connected components, and a patch of wrong pixels breaks or joins them where it lies between "
        "pieces. Choosing a class leaves the mistakes in which it is the true or the predicted one.",
        "note",
    )
    values = {
        "classes": gallery.class_values(seen.dataset),
        "mistakes": gallery.mistake_values(),
        "scenes": seen.scenes,
    }
    return notes + explained + markup.gallery(values, layers, left, best.method if best else "image")


def _recipe(comparison: Comparison) -> str:
    cells = [
        [
            cell.method,
            _DASH if cell.method == "teacher" else str(cell.seed),
            cell.status,
            percent(cell.evaluation["miou"]) if cell.evaluation is not None else _DASH,
            _DASH if cell.epochs is None else str(cell.epochs),
            _DASH if cell.seconds is None else f"{cell.seconds:.0f}",
            f"{cell.run}\n{cell.error or ''}",
        ]
        for row in (comparison.teacher, *comparison.rows)
        for cell in row.cells
    ]
    recipe = yaml.safe_dump(comparison.recipe, sort_keys=False, allow_unicode=True)
    return (
        markup.paragraph("This makes it again, or goes on with it:")
        + markup.listing(comparison.command, "command")
        + markup.listing(recipe, "recipe")
        + markup.table(
            "Runs",
            ["method", "seed", "status", "mIoU", "epochs", "seconds", "folder"],
            cells,
            words=["status", "folder"],
        )
        + markup.table(
            "Machine", ["property", "value"], [[*pair] for pair in comparison.machine.items()], words=["value"]
        )
        + markup.table(
            "Versions", ["library", "version"], [[*pair] for pair in comparison.versions.items()], words=["version"]
        )
    )


def _bars_by_class(score: str, scores: ClassScores, looks: Mapping[str, Style]) -> str:
    """A group of bars for each class."""
    points = {
        name: [Point(method, one.mean, one.least, one.most) for method, one in by_method.items() if one is not None]
        for name, by_method in scores.items()
    }
    caption = f"{score} by class: mean over seeds, and a line from the least to the most."
    return _charted(f"{score} by class", f"{score} in %", points, looks, caption)


def _class_differences(scores: ClassScores, looks: Mapping[str, Style]) -> str:
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
        f"IoU by class minus that of {BASELINE}, means over seeds. No intervals: single classes vary more than means."
    )
    return _charted("gain by class", f"IoU minus that of {BASELINE}, in points", points, looks, caption)


def _charted(title: str, unit: str, points: Mapping[str, list[Point]], looks: Mapping[str, Style], caption: str) -> str:
    """Bars by class as a figure, of at most `CHARTED_CLASSES`: those in which methods differ most."""

    def spread(name: str) -> float:
        values = [point.value for point in points[name]]
        return max(values) - min(values)

    present = [name for name in points if points[name]]
    kept = set(sorted(present, key=spread, reverse=True)[:CHARTED_CLASSES])
    names = [name for name in present if name in kept]
    if not names:
        return ""
    fewer = f" Of the {len(present)} classes the {len(names)} in which methods differ most."
    chart = charts.bars(title, names, [points[name] for name in names], looks, unit)
    return markup.figure(chart, caption + (fewer if len(names) < len(present) else ""))


def _class_table(caption: str, scores: ClassScores, measured: Sequence[Row]) -> str:
    return markup.table(
        caption,
        ["class", *(row.method for row in measured)],
        [[name, *(_mean_and_range(by_method[row.method]) for row in measured)] for name, by_method in scores.items()],
    )


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
    objects = sum(connectivity["reference"].values())
    return 100 * sum(connectivity[key].values()) / objects if objects else None


def _mean_and_range(summary: Summary | None) -> str:
    if summary is None:
        return _DASH
    if len(summary.runs) == 1:
        return f"{summary.mean:.2f}"
    return f"{summary.mean:.2f}\n{summary.least:.2f} to {summary.most:.2f}"


def _intervals(comparison: Comparison) -> str:
    """What intervals there are, in words."""
    found = [row.difference for row in comparison.rows if row.difference is not None]
    level = f"{100 * found[0].level:g}% " if found else ""
    alone = any(min(len(one.candidate.runs), len(one.baseline.runs)) == 1 for one in found)
    return f"{level}intervals over images{', not over seeds' if alone else ' and seeds'}"


def _count(number: int, thing: str) -> str:
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
