"""The page of a pre-training: its loss on held-out images, curves, and the recipe as it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from segdistill.progress import duration
from segdistill.reporting.curves import curve_figures
from segdistill.reporting.names import network_name
from segdistill.reporting.page import Block, Facts, Figures, Fold, Listing, Page, Paragraph, Section, Table
from segdistill.run_folder import RunFolder
from segdistill.training.held_out import HeldOutLoss


def pretrain_report(folder: RunFolder, found: HeldOutLoss, images: int, parts: Sequence[str]) -> str:
    """A finished pre-training as a page.

    Args:
        folder: its recipe and history.
        found: the loss of the last epoch's network.
        images: how many were held out.
        parts: of the student's model, those that were trained.
    """
    config, history = folder.read_config(), folder.read_numbers()
    sections = [
        Section("short", "In short", _in_short(folder, found, history, parts)),
        Section("training", "Training", _training(history)),
        Section("recipe", "Recipe", _recipe(folder, config)),
    ]
    summary = (
        f"The features of {network_name(str(config['teacher']))}, learnt from images without labels; the loss is that "
        f"on {images} held-out images"
    )
    return Page(f"{network_name(str(config['student']))}: {folder.path.name}", summary, sections).render()


def _in_short(
    folder: RunFolder, found: HeldOutLoss, history: Sequence[Mapping[str, float]], parts: Sequence[str]
) -> list[Block]:
    seconds = sum(row.get("seconds", 0.0) for row in history)
    trained = ", ".join(parts)
    return [
        Paragraph(
            f"The student's {trained} learnt the teacher's features: the loss on held-out images is {found.loss:.4f}.",
            "lead",
        ),
        Facts([("held-out loss", f"{found.loss:.4f}", "lower is better"), ("training", duration(seconds), "")]),
        Paragraph(
            "This loss measures how different the student's features still are from the teacher's; it is not an "
            "accuracy. To see whether the pre-training helps, train once from it, with this command, and once without:",
            "note",
        ),
        Listing(f"segdistill train RECIPE --init_weights {folder.path} --output runs/started", "command"),
        Table(
            "Terms of the loss", ["term", "held-out"], [[name, f"{value:.4f}"] for name, value in found.terms.items()]
        ),
    ]


def _training(history: Sequence[Mapping[str, float]]) -> list[Block]:
    figures = curve_figures(history, None)
    if figures:
        return [Figures(figures)]
    return [Paragraph("One epoch makes no curve; history.csv has its numbers.", "note")]


def _recipe(folder: RunFolder, config: Mapping[str, object]) -> list[Block]:
    recipe = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return [
        Paragraph("This command makes the run again:"),
        Listing(f"segdistill pretrain {folder.path}/config.yaml --output again", "command"),
        Fold("The recipe as it was run, which is also in config.yaml", [Listing(recipe, "recipe")]),
    ]
