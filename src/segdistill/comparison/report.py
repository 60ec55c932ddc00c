"""The page of a comparison: what to do, what it looks like, how sure it is, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from segdistill.comparison import report_scores as scores
from segdistill.comparison.in_short import EXPLANATION, INTRODUCTION, Advised, advised, lead
from segdistill.comparison.methods import is_alone
from segdistill.comparison.options import ALONE, BASELINE, CALLED, EQUAL_TIME, REFERENCES, called
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

#: As many as show how much results differ between seeds.
SEEDS = 3

#: Below the name of a way of training in a table.
_SMALL_PRINT = {
    "teacher": "the large network",
    **{name: f"{meaning}; in commands {name}" for name, meaning in ALONE.items()},
}


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
    looks = charts.styles([row.method for row in rows], plain=("teacher", *ALONE), called=CALLED)
    measured = [row for row in rows if row.finished]
    choice = advised(comparison)
    chosen = BASELINE if choice.row is None else choice.row.method
    seen = look(comparison, device, quiet, recipe, chosen)
    sections = [
        Section("short", "In short", _in_short(comparison, choice, seen)),
        Section("images", "Images", _images(measured, choice, seen)),
        Section("next", "Next steps", _next_steps(comparison, choice)),
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
    """What to do and to know, before anything else: in words, in a picture, in numbers."""
    row = choice.row or comparison.baseline
    blocks: list[Block] = [Paragraph(choice.text, "lead")]
    second = lead(row, comparison.teacher, seen.milliseconds)
    blocks += [Paragraph(second, "verdict")] if second else []
    blocks += [Paragraph(INTRODUCTION, "note"), *_usual(comparison, row, seen), Paragraph(comparison.verdict)]
    facts = _facts(row, comparison, seen)
    if facts:
        blocks.append(Facts(facts))
    blocks.append(Bullets([f"{text[:1].upper()}{text[1:]}." for text in comparison.warnings], "warnings"))
    return [*blocks, Fold("What do these words mean?", [Paragraph(EXPLANATION)])]


def _usual(comparison: Comparison, row: Row, seen: Seen) -> list[Block]:
    """An image as the networks see it: the teacher, the student alone, and the row that is recommended."""
    if seen.usual is None or seen.dataset is None:
        return []
    rows = dict.fromkeys((comparison.teacher.method, BASELINE, row.method))
    scores = {one.method: one.miou for one in (comparison.teacher, *comparison.rows) if one.miou is not None}
    notes = {}
    for name in rows:
        if name in seen.usual.predictions and name in scores:
            distilled = not is_alone(name) and name != "teacher"
            way = f"method {name}, " if distilled else ""
            small = f"{way}mIoU of all images {scores[name].mean:.1f} %"
            notes[name] = ("student with teacher" if distilled else called(name), small)
    gaining = "the teacher" if row.method == BASELINE else called(row.method)
    caption = (
        f"A typical validation image: the gain of {gaining} over the student alone is the median over all images. The "
        "section Images has others."
    )
    return [gallery.strip(seen.usual, seen.dataset, notes, caption)]


def _next_steps(comparison: Comparison, choice: Advised) -> list[Block]:
    """Commands to be surer with, and to use the best run with."""
    if choice.cell is None or choice.row is None:
        return [Paragraph("Finish the comparison first: the last section has the command.")]
    surer: list[Block] = []
    words = shlex.split(comparison.command)
    if len(comparison.baseline.cells) == 1 and {"--seeds", "--methods"} <= set(words):
        told = "To be surer, train everything with three seeds"
        words[words.index("--seeds") + 1] = str(SEEDS)
        if not is_alone(choice.row.method) and all(row.method != EQUAL_TIME for row in comparison.rows):
            told += ", and the student alone for as many seconds as the slowest method"
            words[words.index("--methods") + 1] += f",{EQUAL_TIME}"
        surer = [Paragraph(f"{told}; what is finished is kept:"), Listing(shlex.join(words), "command to be surer")]
    commands = [
        f"segdistill predict {choice.cell.run} photos --output labels",
        f"segdistill export {choice.cell.run}",
    ]
    best = called(choice.row.method)
    use = f"To use the best run ({best}), label your images with it, or export it to a file to deploy:"
    return [*surer, Paragraph(use), Listing("\n".join(commands), "commands")]


def _facts(row: Row, comparison: Comparison, seen: Seen) -> list[tuple[str, str, str]]:
    """The student's numbers, and below each what to hold it against."""
    teacher, baseline = comparison.teacher, comparison.baseline
    found = []
    if row.miou is not None:
        told = "teacher not measured" if teacher.miou is None else f"teacher {teacher.miou.mean:.1f} %"
        if row is not baseline and baseline.miou is not None:
            told = f"student alone {baseline.miou.mean:.1f} %, {told}"
        found.append((f"mIoU, {called(row.method)}", f"{row.miou.mean:.1f} %", told))
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
        name = f"{called(row.method)}\n{_SMALL_PRINT.get(row.method, '')}"
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
    minus = [f"gain over {called(other)}" for other in (BASELINE, *others)]
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
    unit = f"mIoU gained over the {CALLED[BASELINE]}, in points"
    chart = charts.intervals("gain in mIoU", points, looks, unit)
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
        layers[method] = called(method)
    chosen = choice.row.method if choice.row is not None else BASELINE
    right = chosen if chosen in layers else next(iter(shown), "image")
    intro = (
        "Drag the line in the picture, or the slider below it. Choose what is left and what is right of the line, and "
        "below the picture another image. 'What is wrong' colours the mistakes of a prediction instead of its classes."
    )
    first = (
        "These are the images"
        if seen.usual is None
        else "The first image is typical: its gain over the student alone is the median. The others are those"
    )
    more = (
        f"{first} on which the ways of training differ most, so they show extremes, not typical images. Predictions "
        "are those of each method's first finished seed. Of images that are too large, a part is shown. 'Near a "
        "boundary' means within the distance that Boundary IoU uses. An object is a connected area of one class: wrong "
        "pixels between two pieces of one break it, wrong pixels between two objects join them. With a class chosen, "
        "only mistakes in which it is the true or the predicted class are shown."
    )
    values = {
        "classes": gallery.class_values(seen.dataset),
        "mistakes": gallery.mistake_values(),
        "scenes": seen.scenes,
    }
    left = BASELINE if BASELINE in layers and right != BASELINE else "image"
    viewer = Gallery(values, layers, left, right, "Images, with mIoU in %")
    return [*notes, Paragraph(intro), viewer, Fold("How these images were chosen", [Paragraph(more)])]


def _recipe(comparison: Comparison) -> list[Block]:
    cells = [
        [
            called(cell.method),
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
    recipe = yaml.safe_dump(comparison.recipe, sort_keys=False, allow_unicode=True)
    failed = [cell for row in comparison.rows for cell in row.cells if cell.error]
    failures = [Paragraph(f"{called(one.method)}, seed {one.seed} failed: {one.error}", "warning") for one in failed]
    machine, versions = comparison.machine.items(), comparison.versions.items()
    return [
        Paragraph("This command makes it again, or continues it where it was stopped:"),
        Listing(comparison.command, "command"),
        *failures,
        Fold("The recipe that all runs share", [Listing(recipe, "recipe")]),
        Fold("All runs and their folders", [Table("Runs", columns, cells, words=["status", "folder"])]),
        Fold(
            "Machine and versions",
            [
                Table("Machine", ["property", "value"], [[*pair] for pair in machine], words=["value"]),
                Table("Versions", ["library", "version"], [[*pair] for pair in versions], words=["version"]),
            ],
        ),
    ]


def _intervals(comparison: Comparison) -> str:
    """What intervals there are, in words."""
    found = [row.difference for row in comparison.rows if row.difference is not None]
    level = f"{100 * found[0].level:g} % " if found else ""
    alone = any(min(len(one.candidate.runs), len(one.baseline.runs)) == 1 for one in found)
    return f"{level}intervals over images{', not over seeds' if alone else ' and seeds'}"
