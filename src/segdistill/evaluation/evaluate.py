"""`segdistill.evaluate`: the scores of a network on a split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, ScoredPart, scored_parts
from segdistill.data.loading import reading
from segdistill.data.scoring import TiledModel
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading.checking import check_dataset
from segdistill.device import choose_device
from segdistill.errors import UserError, unknown_name
from segdistill.evaluation.options import EvaluateOptions
from segdistill.files import write_json
from segdistill.metrics.boundary import BoundaryCounts, BoundaryScores
from segdistill.metrics.connectivity import ConnectivityCounts, ConnectivityScores
from segdistill.metrics.scores import Scores, percent, scores_from_confusion
from segdistill.networks.loading import check_trained, load_trained, network_folder
from segdistill.networks.network import Network
from segdistill.prediction.predictor import open_predictor
from segdistill.progress import counted, tracked
from segdistill.recipe.data import build_split
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.sizes import parse_resize
from segdistill.recipe.values import plain
from segdistill.reporting import page
from segdistill.run_folder import RunFolder, unfinished_note


@dataclass(frozen=True, eq=False)
class Evaluation(Scores):
    """All that is measured of a network on a split: its `Scores` and more.

    Attributes:
        boundary: scores near object boundaries.
        connectivity: objects found whole, broken, bridged, missed, invented.
        confusion: int64 (N, K, K), confusion counts of each image, in order; row = true class, column =
            predicted class.
    """

    boundary: BoundaryScores = field(repr=False)
    connectivity: ConnectivityScores = field(repr=False)
    confusion: Tensor = field(repr=False)  # thousands of numbers, which nobody wants to see in an interpreter

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON; without the counts of each image."""
        return {name: value for name, value in asdict(self).items() if name != "confusion"}

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table that the command prints."""
        return page.fragment([page.Table(_CAPTION, ["class", *_HEADINGS], _rows(self))])


@takes_fields
def evaluate(options: EvaluateOptions) -> Evaluation:
    """Score a network on a split: IoU and F1 of each class, pixel accuracy, boundaries, connectivity.

    The labels that are scored are those that `predict` writes, each image's at its own size. Counts are summed over the
    whole split before any ratio is taken; pixels with the ignore label are left out first.

    Returns:
        The scores; `Evaluation` lists them.

    Raises:
        UserError: for a model or data that cannot be read, or that disagree.
    """
    if not os.path.isfile(options.model):
        check_trained(options.model, options.weights)
    elif options.weights is not None:
        raise UserError(f"{options.model} is a file, which has its own weights; leave weights out")
    size = parse_resize(options.resize)
    dataset, named = _data_of(options.model, options.data, options.split)
    console = Console(quiet=options.quiet)
    tiled = _opened(options.model, options.weights, dataset, options.device, console)
    if size != "auto":
        tiled = replace(tiled, resize=size)
    elif tiled.resize != dataset.resize:
        at = "are not resized" if tiled.resize is None else f"are resized to {tiled.resize[0]} x {tiled.resize[1]}"
        told = "as in the run's validation; --resize asks for another size"
        console.out(f"note: images {at}, {told}", highlight=False)
    check_dataset(dataset, progress=not options.quiet, is_train=options.split == "train")
    found = measure(tiled, dataset, batch_size=options.batch_size, quiet=options.quiet, lines=options.lines or ())
    if not console.is_jupyter:  # a notebook shows what is returned
        title = f"{options.model} on {options.split}, {counted(len(dataset), 'image')}"
        console.print(evaluation_table(found, title), markup=False)
    _save(found, options, {"data": plain(named, "data"), "resize": tiled.resize})  # a run may be read-only
    return found


def _save(found: Evaluation, options: EvaluateOptions, scored: Mapping[str, Any]) -> None:
    """Write the scores, and what they are of, to the file that was asked for, or to the run folder."""
    output = None if options.output is None else Path(options.output)
    if output is None and os.path.isdir(options.model):
        output = Path(options.model) / f"evaluation-{options.split}.json"
    if output is not None:
        weights = None if options.weights is None else str(options.weights)
        given: dict[str, Any] = {"model": str(options.model), "weights": weights, "split": options.split}
        write_json(output, {**given, **scored, **found.as_dict()})


def _data_of(
    model: str | Path, data: Mapping[str, Any] | None, split: str
) -> tuple[SegmentationDataset, Mapping[str, Any]]:
    """The split, and the values of ``data`` that name it."""
    run = RunFolder.of(model)
    if run.config_file.exists() and (data is None or (isinstance(data, Mapping) and "dataset" not in data)):
        own = run.read_config().get("data")
        data = {**own, **(data or {})} if isinstance(own, Mapping) else data
    if data is None:
        raise UserError(f"'{model}' is no run folder whose config.yaml names the data; give it as --data")
    return build_split(data, split), data


def _opened(
    model: str | Path, weights: str | Path | None, dataset: SegmentationDataset, device: str, console: Console
) -> TiledModel:
    """The model as it predicts, of the classes of the data."""
    if os.path.isfile(model):
        predictor = open_predictor(model, device)
        described, tiled = predictor.description, predictor.model
    else:
        network = load_trained(model, len(dataset.classes), dataset.in_channels, weights)
        for note in [*unfinished_note(model), *network.notes]:
            console.out(f"{model}: {note}", highlight=False)
        described, network = network.description, network.to(choose_device(device))
        as_saved = weights is None and network_folder(model) is not None
        tiled = TiledModel.of(network, window=described.window, resize=described.resize)
        tiled = tiled if as_saved else tiled_on(network, dataset)
    described.check_classes(dataset.classes, str(model))
    if described.in_channels != dataset.in_channels:
        raise UserError(
            f"{model} takes {described.in_channels} channels, but the images of the data have {dataset.in_channels}"
        )
    described.check_pixels(dataset.pixel_type(), "the images of the data")
    return tiled


def tiled_on(network: Network, dataset: SegmentationDataset) -> TiledModel:
    """A network on its own device, run as the data asks for: with its evaluation window and its resize."""
    return TiledModel.of(network, window=dataset.evaluation_window, resize=dataset.resize)


def measure(
    model: Network | TiledModel,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 8,
    quiet: bool = True,
    lines: Sequence[str] = (),
) -> Evaluation:
    """Measures a model, on its own device and in float32, on every image of a data set.

    Args:
        model: a model as it is run; or a network of the data's classes, run as `tiled_on` says.
        dataset: the split.
        batch_size: images per batch, at most.
        quiet: no progress bar.
        lines: names of classes that are lines, such as roads, whose broken length is measured too.

    Raises:
        UserError: if a name in ``lines`` is no class of the data, or the images have no labels.
    """
    for name in lines:
        if name not in dataset.classes:
            raise unknown_name("class in lines:", name, dataset.classes)
    if dataset.unlabelled_index is not None:
        raise UserError(
            f"the {len(dataset)} images from {dataset.ids[0]} on have no labels, so nothing can be scored on them; "
            "name a data set with labels"
        )
    tiled = tiled_on(model, dataset) if isinstance(model, Network) else model
    network = tiled.scorer if isinstance(tiled.scorer, nn.Module) else nn.Identity()
    was_training = network.training
    network.eval()
    loader = EvaluationLoader(EvaluationSamples(dataset, tiled.tiling.window, tiled.resize), batch_size)
    counts = _Counts(dataset, [dataset.classes.index(name) for name in lines])
    with torch.inference_mode(), reading(loader):
        shown = tracked(loader, "evaluating", len(loader), Console(quiet=quiet))
        for part in scored_parts(tiled, loader, shown):
            counts.update(part)
    network.train(was_training)
    return counts.result()


class Metric(Protocol):
    """Counts of whole images, and the scores that they give."""

    def update(self, prediction: Tensor, labels: Tensor, /) -> object:
        """Count one image: class numbers uint8 (H, W) of prediction and labels, the ignore label among the latter."""

    def result(self, classes: Sequence[str], /) -> object:
        """Return the scores of all images so far, by the K class names."""


class _Counts:
    """All counts of a split, from parts of images; label maps are held until their image is complete.

    Args:
        dataset: the split.
        lines: classes that are lines.
    """

    def __init__(self, dataset: SegmentationDataset, lines: Sequence[int]) -> None:
        self._classes, self._ignored = dataset.classes, dataset.ignore_index
        count = len(dataset.classes)
        #: By the field of `Evaluation` that holds the scores; each counts whole images.
        self._of_images: dict[str, Metric] = {
            "boundary": BoundaryCounts(count, self._ignored),
            "connectivity": ConnectivityCounts(count, self._ignored, line_classes=lines),
        }
        self._confusion = torch.zeros(len(dataset), count, count, dtype=torch.int64)
        self._open: dict[int, _LabelMaps] = {}

    def update(self, part: ScoredPart) -> None:
        """Counts a part; every pixel of every image must come once."""
        # On a CPU argmax over this dimension takes five times as long.
        predictions = part.scores.max(1).indices.to("cpu", torch.uint8)
        for index, prediction, labels in zip(part.indices, predictions, part.labels, strict=True):
            count = len(self._classes)
            valid = labels != self._ignored
            pairs = labels[valid].long() * count + prediction[valid]
            self._confusion[index] += torch.bincount(pairs, minlength=count**2).view(count, count)
            maps = self._open.setdefault(index, _LabelMaps(part.size))
            if maps.put(part.window, prediction, labels):
                del self._open[index]
                for counts in self._of_images.values():
                    counts.update(maps.predicted, maps.labels)

    def result(self) -> Evaluation:
        """The scores of all images."""
        scores = scores_from_confusion(self._confusion.sum(0), self._classes)
        values: dict[str, Any] = {field.name: getattr(scores, field.name) for field in fields(Scores)}
        values |= {name: counts.result(self._classes) for name, counts in self._of_images.items()}
        return Evaluation(**values, confusion=self._confusion)


class _LabelMaps:
    """Predicted and true label map of one image, uint8 (H, W), put together from parts."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.predicted = self.labels = torch.empty(0, dtype=torch.uint8)
        self._size = size
        self._missing = size[0] * size[1]

    def put(self, window: Window, predicted: Tensor, labels: Tensor) -> bool:
        """Adds a part; whether both maps are complete now."""
        if predicted.shape == self._size:
            self.predicted, self.labels = predicted, labels
            return True
        if not len(self.labels):
            self.predicted, self.labels = (torch.empty(self._size, dtype=torch.uint8) for _ in range(2))
        window.cut(self.predicted).copy_(predicted)
        window.cut(self.labels).copy_(labels)
        self._missing -= predicted.numel()
        return self._missing == 0


_HEADINGS = ("IoU", "F1", "boundary IoU", "boundary F1", "connectivity error")
_CAPTION = (
    "all in %. IoU and F1: how well the predicted area of a class fits the true one, 100 is best; boundary: near the "
    "edges of objects alone (F1: within 3 pixels); connectivity error: objects that are missed, invented, broken or "
    "joined, 0 is best"
)


def evaluation_table(found: Evaluation, title: str) -> Table:
    """What was measured as a table for the terminal."""
    table = Table(title=escape(title), title_justify="left", caption=_CAPTION, caption_justify="left")
    table.add_column("class", overflow="fold")
    for heading in _HEADINGS:
        words = heading.split()  # below each other, and whole however long the names of the classes are
        table.add_column("\n".join(words), justify="right", min_width=max(map(len, words)))
    rows = _rows(found)
    for place, row in enumerate(rows):
        table.add_row(*row, end_section=place + 1 == len(found.iou))
    return table


def _rows(found: Evaluation) -> list[list[str]]:
    """Return a row of texts for each class, then one for the means, and one for each score of all classes together."""
    near, objects = found.boundary, found.connectivity
    rows = []
    for name, iou in found.iou.items():
        row = (iou, found.f1[name], near.boundary_iou[name], near.boundary_f1[3][name], objects.class_error[name])
        rows.append([name, *map(percent, row)])
    means = (found.miou, found.mean_f1, near.mean_boundary_iou, near.mean_boundary_f1[3], objects.error)
    rows.append(["mean", *map(percent, means)])
    return [*rows, ["pixel accuracy", percent(found.pixel_accuracy), "", "", "", ""]]
