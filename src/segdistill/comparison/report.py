"""The page of a comparison: what to do, what it looks like, how sure it is, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from segdistill.comparison import report_scores as scores
from segdistill.comparison.in_short import EXPLANATION, Advised, advised, lead
from segdistill.comparison.options import ALONE, BASELINE, REFERENCES
from segdistill.comparison.report_networks import Seen, look
from segdistill.comparison.report_scores import DASH, mean_and_range
from segdistill.comparison.results import Comparison, Row
from segdistill.comparison.verdict import as_cell, closure
from segdistill.files import write_text
from segdistill.metrics.scores import percent
from segdistill.progress import counted, duration
from segdistill.recipe.recipes import DistillRecipe
from segdistill.reporting import charts, gallery
from segdistill.reporting.charts import Point, Style
from segdistill.reporting.names import network_name
from segdistill.reporting.page import (
    Block,
    Bullets,
    Facts,
    Figure,
    Figures,
    Fold,
    Gallery,
    Listing,
    Page,
    Paragraph,
    Section,
    Table,
)

_MEANINGS = {"teacher": "the large network", **ALONE}


def write_report(
    comparison: Comparison,
    path: Path,
    device: str = "cpu",
    quiet: bool = True,
    recipe: DistillRecipe | None = None,
) -> None:
    """Writes a comparison as one HTML page that opens from disk and needs nothing else.

    Whatever is missing, runs that failed, data or networks that are no longer there, is named on the page instead.

    Args:
        comparison: what was found.
        path: of the page.
        device: where predictions and times are measured: auto, cpu, cuda, cuda:N or mps.
        quiet: show no progress.
        recipe: its cells' shared recipe, for a teacher or data given as objects; without it these are missing.

    Raises:
        UserError: if there is no such device, or the page cannot be written.
    """
    rows = [comparison.teacher, *comparison.rows]
    looks = charts.styles([row.method for row in rows], plain=("teacher", *ALONE))
    seen = look(comparison, device, quiet, recipe)
    measured = [row for row in rows if row.finished]
    choice = advised(comparison)
    sections = [
        Section("short", "In short", _in_short(comparison, choice, seen)),
        Section("images", "Images", _images(measured, choice, seen)),
        Section("next", "Next steps", _next_steps(choice)),
        Section("methods", "Methods", _methods(comparison, looks, seen)),
        Section("cost", "Size and speed", scores.cost(measured, looks, seen)),
        Section("classes", "Classes", scores.classes(measured, comparison.classes, looks)),
        Section("boundaries", "Boundaries", scores.boundaries(measured, comparison.classes, looks)),
        Section("objects", "Broken and missing objects", scores.objects(measured, comparison.classes, looks)),
        Section("training", "Training", scores.training(comparison, looks)),
        Section("recipe", "How it was made", _recipe(comparison)),
    ]
    student = network_name(str(comparison.recipe.get("student", "the student")))
    teacher = network_name(comparison.recipe.get("teacher", "the teacher"))
    seeds = max(len(row.cells) for row in comparison.rows)
    summary = (
        f"Teacher: {teacher}. {counted(len(comparison.rows), 'way')} of training, {counted(seeds, 'seed')}, "
        f"{counted(len(comparison.ids), 'validation image')}, {counted(len(comparison.classes), 'class')}. "
        f"Folder: {comparison.folder.name}"
    )
    write_text(path, Page(f"Which training is best for {student}?", summary, sections).render())


def _in_short(comparison: Comparison, choice: Advised, seen: Seen) -> list[Block]:
    """What to know and to do, before anything else."""
    row = choice.row or comparison.baseline
    first = lead(row, comparison.teacher, seen.milliseconds)
    blocks: list[Block] = [Paragraph(first, "lead")] if first else []
    blocks += [Paragraph(choice.text, "verdict"), Paragraph(comparison.verdict)]
    facts = _facts(row, comparison, seen)
    if facts:
        blocks.append(Facts(facts))
    blocks.append(Bullets([f"{text[:1].upper()}{text[1:]}." for text in comparison.warnings], "warnings"))
    return [*blocks, Fold("What do these words mean?", [Paragraph(EXPLANATION)])]


def _next_steps(choice: Advised) -> list[Block]:
    """Commands to use the best run with."""
    if choice.cell is None or choice.row is None:
        return [Paragraph("Finish the comparison first: the last section has the command.")]
    commands = [
        f"segdistill predict {choice.cell.run} photos --output labels",
        f"segdistill export {choice.cell.run}",
    ]
    told = f"The best run of {choice.row.method}: label your images with it, or export it to a file to deploy:"
    return [Paragraph(told), Listing("\n".join(commands), "commands")]


def _facts(row: Row, comparison: Comparison, seen: Seen) -> list[tuple[str, str, str]]:
    """The student's numbers, and below each what to hold it against."""
    teacher, baseline = comparison.teacher, comparison.baseline
    found = []
    if row.miou is not None:
        of_teacher = "teacher not measured" if teacher.miou is None else f"teacher {teacher.miou.mean:.1f} %"
        found.append((f"mIoU, {row.method}", f"{row.miou.mean:.1f} %", of_teacher))
    if row.parameters and teacher.parameters:
        found.append(("parameters", f"{row.parameters / 1e6:.2f} M", f"teacher {teacher.parameters / 1e6:.2f} M"))
    if {row.method, "teacher"} <= seen.milliseconds.keys():
        own, other = seen.milliseconds[row.method], seen.milliseconds["teacher"]
        found.append(("time for an image", f"{own:.1f} ms", f"teacher {other:.1f} ms, on {seen.where}"))
    if row.seconds is not None and baseline.seconds is not None:
        without = "" if row is baseline else f"without teacher {duration(baseline.seconds)}"
        found.append(("training", duration(row.seconds), without))
    return found


def _methods(comparison: Comparison, looks: Mapping[str, Style], seen: Seen) -> list[Block]:
    others = [row.method for row in comparison.rows if row.method in REFERENCES]
    gains, costs = [], []
    for row in (*comparison.rows, comparison.teacher):
        name = f"{row.method}\n{_MEANINGS.get(row.method, '')}"
        seeds = DASH if row.method == "teacher" else f"{len(row.finished)} of {len(row.cells)}"
        closed = DASH if row.gap is None or row.gap.closed is None else closure(row.gap).replace(" (", "\n(")
        against = [as_cell(row.against.get(other)) for other in others]
        gains.append([name, seeds, mean_and_range(row.miou), as_cell(row.difference), *against, closed, row.verdict])
        costs.append(
            [
                name,
                mean_and_range(row.boundary_iou),
                mean_and_range(row.boundary_f1),
                mean_and_range(row.connectivity_error),
                DASH if row.seconds is None else f"{row.seconds:.0f}",
                DASH if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
                DASH if row.macs is None else f"{row.macs / 1e9:.2f} G",
                f"{seen.milliseconds[row.method]:.1f}" if row.method in seen.milliseconds else DASH,
            ]
        )
    minus = [f"gain over {BASELINE}", *(f"gain over {other}" for other in others)]
    explained = (
        "Scores are means over seeds, with the least and the most below. Gains are differences in mIoU, in points; "
        f"below them, and below the share of the gap to the teacher that was closed, are {_intervals(comparison)}. "
        "Boundary IoU and boundary F1 score the outlines of objects, F1 within 3 pixels; the connectivity error "
        "counts objects that are broken, joined, missed or invented, and 0 is best. MACs are the multiplications for "
        f"one image. Milliseconds are the time for one image in float32 on {seen.where}, measured when this page was "
        "written."
    )
    return [
        *_gains_chart(comparison, looks),
        Table(
            "mIoU in percent, and what each way of training gained",
            ["training", "seeds", "mIoU", *minus, "gap closed", "verdict"],
            gains,
            words=["verdict"],
        ),
        Table(
            "Boundaries and objects in percent, and what each network costs",
            [
                "training",
                "boundary IoU",
                "boundary F1",
                "connectivity error",
                "training s",
                "parameters",
                "MACs",
                "ms / image",
            ],
            costs,
        ),
        Paragraph(explained, "note"),
    ]


def _gains_chart(comparison: Comparison, looks: Mapping[str, Style]) -> list[Block]:
    points = [
        Point(row.method, row.difference.difference, row.difference.low, row.difference.high)
        for row in comparison.rows
        if row.difference is not None
    ]
    if not points:
        return []
    chart = charts.intervals(f"gain over {BASELINE}", points, looks, f"mIoU minus that of {BASELINE}, in points")
    caption = (
        f"Gain in mIoU over the student without its teacher, with {_intervals(comparison)}. A line right of 0 is a "
        "gain; a line that crosses 0 shows no difference."
    )
    return [Figures([Figure(chart, caption)])]


def _images(measured: Sequence[Row], choice: Advised, seen: Seen) -> list[Block]:
    notes: list[Block] = [Paragraph(note, "warning") for note in seen.notes]
    if not seen.scenes or seen.dataset is None:
        return notes
    shown = [row.method for row in measured if row.method in seen.milliseconds]
    layers = {"image": "image", "truth": "truth (the labels)"}
    for method in shown:
        layers[method] = f"{method} ({_MEANINGS[method]})" if method in _MEANINGS else method
    chosen = choice.row.method if choice.row is not None else BASELINE
    right = chosen if chosen in layers else next(iter(shown), "image")
    intro = (
        "Drag the line in the picture, or the slider below it: left of it is one network's prediction, right of it "
        "another's. 'What is wrong' shows the mistakes instead."
    )
    more = (
        f"These are the {counted(len(seen.scenes), 'validation image')} on which the ways of training differ most, so "
        "they show extremes, not what is usual; below each is its mIoU. Predictions are those of each method's first "
        "finished seed. Of images that are too large, a part is shown. 'Near a boundary' is as near as Boundary IoU "
        "looks; objects are connected areas of one class, and wrong pixels between two pieces of one break it, between "
        "two objects join them. With a class chosen, only mistakes in which it is the true or the predicted class are "
        "shown."
    )
    values = {
        "classes": gallery.class_values(seen.dataset),
        "mistakes": gallery.mistake_values(),
        "scenes": seen.scenes,
    }
    viewer = Gallery(values, layers, "image", right)
    return [*notes, Paragraph(intro), viewer, Fold("How these images were chosen", [Paragraph(more)])]


def _recipe(comparison: Comparison) -> list[Block]:
    cells = [
        [
            cell.method,
            DASH if cell.method == "teacher" else str(cell.seed),
            cell.status,
            percent(cell.evaluation["miou"]) if cell.evaluation is not None else DASH,
            DASH if cell.epochs is None else str(cell.epochs),
            DASH if cell.seconds is None else f"{cell.seconds:.0f}",
            f"{cell.run}\n{cell.error or ''}",
        ]
        for row in (comparison.teacher, *comparison.rows)
        for cell in row.cells
    ]
    columns = ["training", "seed", "status", "mIoU", "epochs", "seconds", "folder"]
    machine, versions = comparison.machine.items(), comparison.versions.items()
    return [
        Paragraph("This command makes it again, or continues it where it was stopped:"),
        Listing(comparison.command, "command"),
        Paragraph("The recipe that all runs share:"),
        Listing(yaml.safe_dump(comparison.recipe, sort_keys=False, allow_unicode=True), "recipe"),
        Table("Runs", columns, cells, words=["status", "folder"]),
        Table("Machine", ["property", "value"], [[*pair] for pair in machine], words=["value"]),
        Table("Versions", ["library", "version"], [[*pair] for pair in versions], words=["version"]),
    ]


def _intervals(comparison: Comparison) -> str:
    """What intervals there are, in words."""
    found = [row.difference for row in comparison.rows if row.difference is not None]
    level = f"{100 * found[0].level:g}% " if found else ""
    alone = any(min(len(one.candidate.runs), len(one.baseline.runs)) == 1 for one in found)
    return f"{level}intervals over images{', not over seeds' if alone else ' and seeds'}"
