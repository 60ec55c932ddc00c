"""`segdistill.demo`: the main job, end to end, on built-in scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table

from segdistill.comparison.evaluate import measure
from segdistill.comparison.latency import latency_ms
from segdistill.errors import UserError
from segdistill.files import write_atomically, write_json, write_text
from segdistill.networks.loading import load_network
from segdistill.networks.size import count_macs, count_parameters
from segdistill.recipe import build_methods, build_split
from segdistill.reporting.page import report_page
from segdistill.reporting.picture import side_by_side
from segdistill.training.config import TrainConfig
from segdistill.training.device import choose_device
from segdistill.training.distill import distill
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
COLUMNS = ("network", "mIoU", "parameters", "MACs", "ms / image", "training s")


def demo(
    *,
    output: str | Path = "demo",
    method: str = "brd",
    teacher_epochs: int = 7,
    epochs: int = 6,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = True,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Trains a teacher, a student alone and the same student distilled, on synthetic aerial scenes.

    Writes the three runs, comparison.png (image, truth and the three predictions side by side), demo.json and
    report.html into the output folder.

    Args:
        output: the folder.
        method: the distillation method, see `segdistill methods`.
        teacher_epochs: passes of the teacher's training.
        epochs: passes of the student's training, the same number alone and distilled.
        seed: seed of everything random.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: replace the runs of an earlier demo in the output folder.
        quiet: print nothing.

    Returns:
        One mapping per network: name, mIoU, parameters, MACs, milliseconds per image, training seconds.
    """
    folder = Path(output)
    if folder.is_file():
        raise UserError(f"output {folder} is a file, expected a folder")
    build_methods(method)  # a wrong name is told before the teacher is trained, not after
    console = Console(quiet=True) if quiet else rich.get_console()
    common: dict[str, Any] = {
        "data": DATA,
        "seed": seed,
        "device": device,
        "overwrite": overwrite,
        "quiet": quiet,
    }
    recipe = TrainConfig(epochs=epochs, batch_size=8, lr=3e-3, warmup=0.1, loss="balanced")

    console.rule("teacher")
    teacher = train(
        network=TEACHER,
        train=replace(recipe, epochs=teacher_epochs),
        output=folder / "teacher",
        **common,
    )
    console.rule("student alone")
    alone = train(network=STUDENT, train=recipe, output=folder / "alone", **common)
    console.rule(f"student distilled with {method}")
    distilled = distill(
        teacher=str(teacher.path),
        student=STUDENT,
        method=method,
        train=recipe,
        output=folder / "distilled",
        **common,
    )

    scenes = build_split(DATA, "test")
    runs = {"teacher": teacher, "student alone": alone, f"student + {method}": distilled}
    networks = {name: load_network(str(run.path)).to(choose_device(device)) for name, run in runs.items()}
    rows = []
    for name, network in networks.items():
        scores = measure(network, scenes, quiet=quiet)
        metrics = runs[name].read_metrics() or {}
        rows.append(
            {
                "network": name,
                "miou": scores.miou,
                "parameters": count_parameters(network),
                "macs": count_macs(network, (SIZE, SIZE)),
                "ms_per_image": latency_ms(network, (SIZE, SIZE)),
                "training_seconds": metrics["training_seconds"],
                "iou": scores.iou,
            }
        )
    cells = [_cells(row) for row in rows]
    picture = side_by_side(scenes, networks, range(min(4, len(scenes))))
    write_atomically(folder / "comparison.png", lambda file: picture.save(file, "PNG"))
    write_json(folder / "demo.json", rows)
    write_text(folder / "report.html", report_page("segdistill demo", COLUMNS, cells, picture))
    table = Table(title=f"{len(scenes)} test scenes", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for row in cells:
        table.add_row(*row)
    console.print(table)
    console.print(f"pictures: {folder / 'comparison.png'}   report: {folder / 'report.html'}", highlight=False)
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["network"],
        f"{row['miou']:.1f}",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e9:.2f} G",
        f"{row['ms_per_image']:.1f}",
        f"{row['training_seconds']:.0f}",
    ]
