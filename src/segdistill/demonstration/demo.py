"""`segdistill.demo`: the main job, end to end, on built-in scenes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison.compare import compare
from segdistill.comparison.methods import parse_methods
from segdistill.comparison.options import BASELINE
from segdistill.comparison.reading import read_plan
from segdistill.comparison.results import Comparison
from segdistill.datasets.base import SegmentationDataset
from segdistill.demonstration.options import DemoOptions
from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.evaluation.evaluate import measure
from segdistill.evaluation.forward_time import forward_ms
from segdistill.files import write_atomically, write_json
from segdistill.locks import alone_in
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.recipe.data import build_split
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.train_config import TrainConfig
from segdistill.reporting.picture import side_by_side
from segdistill.run_folder import RunFolder
from segdistill.training.train import train

# Narrow decoders, so that a teacher is trained from nothing within two minutes on two CPU cores.
DECODER = "?decoder_pyramid_channels=64&decoder_segmentation_channels=32"
TEACHER = f"smp:FPN:resnet18{DECODER}"
STUDENT = f"smp:FPN:tu-mobilenetv3_small_050{DECODER}"
SIZE = 96
DATA: dict[str, Any] = {
    "dataset": "synthetic-aerial",
    "size": [SIZE, SIZE],
    "crop": [SIZE, SIZE],
    "scale": [0.75, 1.5],
    "vertical_flip": True,
    "quarter_turns": True,
}
#: Augmented pictures of each scene. The teacher's outputs are computed once for each, not in every epoch.
VIEWS = 3
COLUMNS = ("network", "mIoU", "parameters", "MACs", "ms / image", "training s")


@takes_fields
def demo(options: DemoOptions) -> list[dict[str, Any]]:
    """Train a teacher, then compare the student distilled from it with the same student trained alone.

    All on synthetic aerial scenes. Writes the teacher's run, the comparison with its compare/report.html, demo.json and
    comparison.png (image, truth and the three predictions of test scenes side by side) into the output folder.

    Returns:
        One mapping per network: name, mIoU on the test scenes, parameters, MACs, milliseconds per image, training
        seconds.

    Raises:
        UserError: for a wrong option, or if a run failed.
    """
    folder, quiet = Path(options.output), options.quiet
    # Whatever is wrong is told before the teacher is trained, not after.
    parse_methods(f"{BASELINE},{options.method}")
    console = Console(quiet=True) if quiet else rich.get_console()
    with alone_in(folder):
        found = _compared(options, folder, console)
        scenes = build_split(DATA, "test")
        rows, networks = _measured(found, scenes, options)
        picture = side_by_side(scenes, networks, range(min(4, len(scenes))))
        write_atomically(folder / "comparison.png", lambda file: picture.save(file, "PNG"))
        write_json(folder / "demo.json", rows)
    table = Table(title=f"{len(scenes)} test scenes", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for line in rows:
        table.add_row(*_cells(line))
    console.print(table)
    for text in _in_words(rows, len(scenes), folder):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return rows


def _in_words(rows: Sequence[Mapping[str, Any]], scenes: int, folder: Path) -> list[str]:
    """What the demo did, what came out, and what to do next, for someone who sees it for the first time."""
    teacher, alone, *distilled = rows
    ways = ", ".join(f"{row['miou']:.1f} as {row['network']}" for row in distilled)
    return [
        "",
        "What was done: a large network, the teacher, was trained on labelled scenes. Then a small one, the student, "
        "was trained on them twice: on the labels alone, and on the labels with the help of the teacher.",
        f"What came out: on {scenes} other scenes the student has an mIoU of {alone['miou']:.1f} alone, and {ways}; "
        f"the teacher has {teacher['miou']:.1f}. (mIoU in %: how well areas match the labels; 100 is perfect.)",
        "Is it certain? Not from one seed: the report has the command for three.",
        f"Look at it: {folder / 'compare' / 'report.html'} in a browser, and {folder / 'comparison.png'}",
        "Try your own images: segdistill data check --dataset folder --root my/data --classes '[road, roof, tree]'; "
        "README.md says how to go on.",
    ]


def _compared(options: DemoOptions, folder: Path, console: Console) -> Comparison:
    """A teacher, and the students that are alike but for the method."""
    # Not bf16 where a processor has it: a small student is faster in fp32 (docs/benchmarks/training.md).
    recipe = TrainConfig(epochs=options.epochs, batch_size=8, lr=3e-3, warmup=0.1, loss="balanced", precision="fp32")
    scenes = [build_split(DATA, split) for split in ("train", "val")]  # while they are held, no run draws them again
    common: dict[str, Any] = {"data": DATA, "seed": options.seed, "device": options.device, "quiet": options.quiet}
    console.rule("teacher")
    teacher = train(
        network=TEACHER,
        train=replace(recipe, epochs=options.teacher_epochs),
        output=folder / "teacher",
        overwrite=options.overwrite,
        **common,
    )
    if options.overwrite and read_plan(folder / "compare") is not None:
        for runs in ("cells", "teacher"):
            shutil.rmtree(folder / "compare" / runs, ignore_errors=True)
    cache = folder / "teacher_cache"
    shutil.rmtree(cache, ignore_errors=True)  # of an earlier demo that was stopped
    found = compare(
        teacher=teacher.path,
        student=STUDENT,
        methods=f"{BASELINE},{options.method}",
        seeds=1,
        train=recipe,
        views=min(VIEWS, options.epochs),
        teacher_cache=cache,
        output=folder / "compare",
        **common,
    )
    shutil.rmtree(cache, ignore_errors=True)
    del scenes
    assert found is not None  # it is no dry run
    return found


def _measured(
    found: Comparison, scenes: SegmentationDataset, options: DemoOptions
) -> tuple[list[dict[str, Any]], dict[str, Network]]:
    """What demo.json holds for each network, by scenes that no run has seen, and the networks by name."""
    rows, networks = [], {}
    teacher = RunFolder(Path(options.output) / "teacher").read_metrics() or {}
    times: dict[tuple[int | None, int | None], float] = {}  # equal networks take equal time
    for row in (found.teacher, *found.rows):
        cell = row.cells[0]
        if cell.error is not None:
            raise UserError(f"the student with {row.method} failed: {cell.error}")
        name = {"teacher": "teacher", BASELINE: "student alone"}.get(row.method, f"student + {row.method}")
        networks[name] = network = load_run(cell.run).to(choose_device(options.device))
        scores = measure(network, scenes, quiet=options.quiet)
        cost = (row.parameters, row.macs)
        if cost not in times:
            times[cost] = forward_ms(network, (SIZE, SIZE))
        rows.append(
            {
                "network": name,
                "miou": scores.miou,
                "parameters": row.parameters,
                "macs": row.macs,
                "ms_per_image": times[cost],
                "training_seconds": teacher["training_seconds"] if cell.seconds is None else cell.seconds,
                "iou": scores.iou,
            }
        )
    return rows, networks


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["network"],
        f"{row['miou']:.1f}",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e9:.2f} G",
        f"{row['ms_per_image']:.1f}",
        f"{row['training_seconds']:.0f}",
    ]
