"""`segdistill.evaluate`: the scores of a network on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segdistill.data.loading import evaluation_loader
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.checking import check_dataset
from segdistill.errors import UserError
from segdistill.files import write_json
from segdistill.metrics.scores import ConfusionCounts, Scores, percent, scores_from_confusion
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.recipe import build_split, plain
from segdistill.training.device import choose_device
from segdistill.training.run_folder import RunFolder


def evaluate(
    *,
    model: str | Path,
    data: dict[str, Any] | None = None,
    split: str = "val",
    weights: str | None = None,
    output: str | Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    quiet: bool = False,
) -> Scores:
    """Scores a network on a split: mIoU, IoU and F1 of each class, pixel accuracy, mean F1.

    Counts are summed over the whole split before any ratio is taken; pixels with the ignore label are left out first.

    Args:
        model: a run folder, or a network spec with --weights.
        data: the data set; by default the one that the run was trained on.
        split: the split to score.
        weights: a .safetensors or .pth file with the weights of a network that is given as a spec.
        output: JSON file for the scores; by default evaluation-SPLIT.json in the run folder.
        batch_size: images per batch.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: print nothing.

    Returns:
        The scores.

    Raises:
        UserError: for a model or data that cannot be read, or that disagree.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    is_run = Path(model).is_dir()
    if not is_run and ":" not in str(model):
        raise UserError(f"model folder '{model}' does not exist; expected a run folder or a network spec")
    if data is None and is_run:
        data = RunFolder(model).read_config().get("data")
    if data is None:
        raise UserError(f"'{model}' is no run folder whose config.yaml names the data; give data")
    dataset = build_split(data, split)
    if not is_run and weights is None:
        raise UserError(f"'{model}' is no run folder, and a network spec alone has no trained weights; give weights")
    network = load_network(str(model), None if is_run else len(dataset.classes), dataset.in_channels, weights)
    if network.num_classes != len(dataset.classes):
        raise UserError(f"{model} has {network.num_classes} classes, but the data has {len(dataset.classes)}")
    check_dataset(dataset, progress=not quiet and Console().is_terminal)
    scores = score(network.to(choose_device(device)), dataset, batch_size=batch_size, quiet=quiet)
    if output is None and is_run:
        output = Path(model) / f"evaluation-{split}.json"
    if output is not None:
        scored = {"model": str(model), "weights": weights, "data": plain(data, "data"), "split": split}
        write_json(Path(output), scored | scores.as_dict())
    Console(quiet=quiet).print(scores_table(scores, f"{model} on {split}, {len(dataset)} images"))
    return scores


def score(network: Network, dataset: SegmentationDataset, *, batch_size: int = 8, quiet: bool = True) -> Scores:
    """Scores of a network, on its own device and in float32, on every image of a data set."""
    device = next(network.parameters()).device
    counts = ConfusionCounts(len(dataset.classes), dataset.ignore_index).to(device)
    was_training = network.training
    network.eval()
    loader = evaluation_loader(dataset, batch_size, None)
    console = Console(quiet=quiet)
    with torch.inference_mode():
        for images, labels in track(
            loader, "evaluating", console=console, transient=True, disable=quiet or not console.is_terminal
        ):
            counts.update(network(images.to(device)), labels.to(device))
    network.train(was_training)
    return scores_from_confusion(counts.confusion(), dataset.classes)


def scores_table(scores: Scores, title: str) -> Table:
    """The scores as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("F1", justify="right")
    for name, iou in scores.iou.items():
        table.add_row(name, percent(iou), percent(scores.f1[name]))
    table.add_section()
    table.add_row("mean", percent(scores.miou), percent(scores.mean_f1))
    table.add_row("pixel accuracy", percent(scores.pixel_accuracy), "")
    return table
