"""`segdistill.evaluate`: the scores of a network on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segdistill.data.loading import evaluation_loader, reading
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import check_dataset
from segdistill.device import choose_device
from segdistill.errors import UserError, unknown_name
from segdistill.files import check_json_file, write_json
from segdistill.metrics.boundary import BoundaryCounts, BoundaryScores
from segdistill.metrics.connectivity import ConnectivityCounts, ConnectivityScores
from segdistill.metrics.scores import Scores, percent, scores_from_confusion
from segdistill.networks.loading import check_trained, load_trained
from segdistill.networks.network import Network
from segdistill.progress import tracked
from segdistill.recipe.data import build_split
from segdistill.recipe.values import plain
from segdistill.run_folder import RunFolder


def evaluate(
    *,
    model: str | Path,
    data: dict[str, Any] | None = None,
    split: str = "val",
    weights: str | None = None,
    output: str | Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    lines: list[str] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Scores a network on a split: IoU and F1 of each class, means, pixel accuracy, boundaries, connectivity.

    Counts are summed over the whole split before any ratio is taken; pixels with the ignore label are left out first.

    Args:
        model: a run folder, or a network spec with --weights.
        data: the data set; by default the one that the run was trained on, with what is given here changed in it unless
            that names a dataset: {root: elsewhere}.
        split: the split to score.
        weights: a .safetensors or .pth file with the weights of a network that is given as a spec.
        output: JSON file for the scores; by default evaluation-SPLIT.json in the run folder.
        batch_size: images per batch.
        device: auto, cpu, cuda, cuda:N or mps.
        lines: names of classes that are lines, such as [road], whose broken length is measured too (needs
            segdistill[lines]).
        quiet: print nothing.

    Returns:
        The scores; `Evaluation` lists them.

    Raises:
        UserError: for a model or data that cannot be read, or that disagree.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    if output is not None:
        check_json_file(output, "output")
    check_trained(model, weights)
    run = RunFolder.of(model)
    if run.config_file.exists() and (data is None or (isinstance(data, Mapping) and "dataset" not in data)):
        own = run.read_config().get("data")
        data = {**own, **(data or {})} if isinstance(own, Mapping) else data
    if data is None:
        raise UserError(f"'{model}' is no run folder whose config.yaml names the data; give data")
    dataset = build_split(data, split)
    network = load_trained(model, len(dataset.classes), dataset.in_channels, weights)
    network.description.check_classes(dataset.classes, str(model))
    for note in network.notes:
        Console(quiet=quiet).out(f"{model}: {note}", highlight=False)
    check_dataset(dataset, progress=not quiet, is_train=split == "train")
    found = measure(network.to(choose_device(device)), dataset, batch_size=batch_size, quiet=quiet, lines=lines or ())
    if output is None and Path(model).is_dir():
        output = Path(model) / f"evaluation-{split}.json"
    if output is not None:
        scored = {"model": str(model), "weights": weights, "data": plain(data, "data"), "split": split}
        write_json(Path(output), scored | found.as_dict())
    Console(quiet=quiet).print(evaluation_table(found, f"{model} on {split}, {len(dataset)} images"))
    return found


@dataclass(frozen=True, eq=False)
class Evaluation(Scores):
    """All that is measured of a network on a split: its `Scores` and more.

    Attributes:
        boundary: scores near object boundaries.
        connectivity: objects found whole, broken, bridged, missed, invented.
        confusion: int64 (N, K, K), confusion counts of each image; row = true class, column = predicted class.
    """

    boundary: BoundaryScores
    connectivity: ConnectivityScores
    confusion: Tensor

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON; without the counts of each image."""
        return {name: value for name, value in asdict(self).items() if name != "confusion"}


def measure(
    network: Network,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 8,
    quiet: bool = True,
    lines: Sequence[str] = (),
) -> Evaluation:
    """Measures a network, on its own device and in float32, on every image of a data set.

    Args:
        network: any network of the data's classes.
        dataset: the split.
        batch_size: images per batch.
        quiet: no progress bar.
        lines: names of classes that are lines, such as roads, whose broken length is measured too.

    Raises:
        UserError: if a name in ``lines`` is no class of the data.
    """
    for name in lines:
        if name not in dataset.classes:
            raise unknown_name("class in lines:", name, dataset.classes)
    device = next(network.parameters()).device
    classes, ignored = len(dataset.classes), dataset.ignore_index
    boundary = BoundaryCounts(classes, ignored)
    connectivity = ConnectivityCounts(classes, ignored, line_classes=[dataset.classes.index(name) for name in lines])
    confusion: list[Tensor] = []
    was_training = network.training
    network.eval()
    loader = evaluation_loader(dataset, batch_size, None)
    console = Console(quiet=quiet)
    with torch.inference_mode(), reading(loader):
        for images, labels in tracked(loader, "evaluating", len(loader), console):
            for prediction, truth in zip(network(images.to(device)).argmax(1).cpu(), labels, strict=True):
                valid = truth != ignored
                pairs = truth[valid] * classes + prediction[valid]
                confusion.append(torch.bincount(pairs, minlength=classes**2).view(classes, classes))
                boundary.update(prediction, truth)
                connectivity.update(prediction, truth)
    network.train(was_training)
    each = torch.stack(confusion)
    scores = scores_from_confusion(each.sum(0), dataset.classes)
    return Evaluation(
        **{field.name: getattr(scores, field.name) for field in fields(Scores)},
        boundary=boundary.result(dataset.classes),
        connectivity=connectivity.result(dataset.classes),
        confusion=each,
    )


def evaluation_table(found: Evaluation, title: str) -> Table:
    """What was measured as a table for the terminal."""
    caption = "BIoU: boundary IoU; BF1: boundary F1 at 3 px; connect.: connectivity error, 0 is best; all in %"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("class", no_wrap=True)
    for heading in ("IoU", "F1", "BIoU", "BF1", "connect."):
        table.add_column(heading, justify="right")
    near, objects = found.boundary, found.connectivity
    for name, iou in found.iou.items():
        row = (iou, found.f1[name], near.boundary_iou[name], near.boundary_f1[3][name], objects.class_error[name])
        table.add_row(name, *map(percent, row))
    table.add_section()
    means = (found.miou, found.mean_f1, near.mean_boundary_iou, near.mean_boundary_f1[3], objects.error)
    table.add_row("mean", *map(percent, means))
    table.add_row("pixel accuracy", percent(found.pixel_accuracy), "", "", "", "")
    return table
