"""Images without labels in a run: classes are the teacher's, and so are the labels that a student is compared with."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from segdistill.colors import Color
from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, scored_parts
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Sample, Window
from segdistill.datasets.reading.first import FirstSamples
from segdistill.datasets.reading.masks import resized_labels
from segdistill.errors import UserError
from segdistill.methods import Method
from segdistill.networks.folder import read_description
from segdistill.networks.loading import network_folder
from segdistill.networks.network import Network
from segdistill.progress import tracked
from segdistill.recipe.data import Data
from segdistill.recipe.data_keys import SPLITS
from segdistill.recipe.recipes import DistillRecipe
from segdistill.training.teacher_source import TeacherSource


class TeacherLabelled(SegmentationDataset):
    """Images whose labels are the classes that a teacher gives them, computed once and kept compressed in memory.

    Args:
        dataset: images without labels; pixels without data stay ignored.
        seen: the same images as the teacher sees them.
        teacher: on its device; scores images as validation does, at their own size.
        fabric: the precision.
        console: where a bar is drawn.
        bar: whether there is one.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        seen: SegmentationDataset,
        teacher: Network,
        *,
        fabric: Fabric,
        console: Console,
        bar: bool,
    ) -> None:
        super().__init__(
            classes=dataset.classes, ids=dataset.ids, palette=dataset.palette, in_channels=dataset.in_channels
        )
        self.take_attributes(dataset)
        self.unlabelled_index = None
        self.dataset = dataset
        self._kept: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        loader = EvaluationLoader(EvaluationSamples.of(seen), 1, 0)
        teacher.eval()
        with torch.inference_mode(), fabric.autocast():
            shown = tracked(loader, "the teacher labels the validation images", len(loader), console, bar)
            labels, left = torch.empty(0), 0
            for part in scored_parts(teacher, loader, shown):
                if left == 0:  # the parts of an image follow each other
                    labels, left = torch.empty(part.size, dtype=torch.uint8), part.size[0] * part.size[1]
                found = part.scores[0].argmax(0).to("cpu", torch.uint8)
                missing = part.labels[0] == self.ignore_index
                part.window.cut(labels).copy_(found.masked_fill_(missing, self.ignore_index))
                left -= part.window.height * part.window.width
                if left == 0:
                    self._kept.append(zlib.compress(labels.numpy().tobytes(), 1))
                    self._sizes.append(part.size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset[index][0], resized_labels(self.labels(index), self.resize)

    def open(self, index: int) -> Sample:
        """See `SegmentationDataset.open`."""
        labels = resized_labels(self.labels(index), self.resize)
        return _WithLabels(self.dataset.open(index), labels)

    def labels(self, index: int) -> Tensor:
        """See `SegmentationDataset.labels`."""
        labels = np.frombuffer(zlib.decompress(self._kept[index]), dtype=np.uint8)
        return torch.from_numpy(labels.reshape(self._sizes[index]).astype(np.int64))

    def scored(self, index: int) -> tuple[Tensor, Tensor] | None:
        """See `SegmentationDataset.scored`."""
        kept = self.dataset.scored(index)
        return None if kept is None else (kept[0], self.labels(index).to(torch.uint8))

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        return self.dataset.files(index)

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return self.dataset.pixel_type()

    def at_size(self, resize: tuple[int, int] | None) -> SegmentationDataset:
        """See `SegmentationDataset.at_size`."""
        if resize == self.resize:
            return self
        other = copy.copy(self)
        other.resize, other.dataset = resize, self.dataset.at_size(resize)
        return other


class _WithLabels(Sample):
    """A sample with other labels."""

    def __init__(self, sample: Sample, labels: Tensor) -> None:
        self._sample, self._labels = sample, labels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._sample.size

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        """See `Sample.window`."""
        return self._sample.window(window)[0], window.cut(self._labels)


def check_without_labels(recipe: DistillRecipe, methods: Sequence[Method]) -> None:
    """Refuse what learns from labels, for a run whose training images have none.

    Raises:
        UserError: a method that needs labels, or loss weights that are measured against the loss on labels.
    """
    for method in methods:
        if method.needs_labels:
            raise UserError(
                f"method {method.name} needs labels, and the training images have none; take a method without them, "
                "such as kd or cwd (`segdistill methods` names them)"
            )
    if recipe.loss_weights == "auto":
        raise UserError(
            "loss_weights: auto measures terms against the loss on labels, and the training images have none; give "
            "fixed, or a factor for each term"
        )


def with_classes(data: Data, recipe: DistillRecipe) -> Data:
    """Data whose images without labels have the classes of the labelled validation split, else of the teacher.

    Raises:
        UserError: neither names any.
    """
    lacking = [images for images in (data.train, data.val) if not images.classes]
    if not lacking:
        return data
    classes, palette = (data.val.classes, data.val.palette) if data.val.classes else _classes_of(recipe)
    for images in lacking:
        for one in (images, images.dataset) if isinstance(images, FirstSamples) else (images,):
            one.classes, one.palette = classes, palette
    return replace(data, values=_with_classes(data.values, list(classes)))


def _with_classes(values: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """The recipe's ``data``, complete: with the classes wherever it names images alone."""
    if values.get("dataset") == "images":
        return values | {"classes": classes}
    return values | {
        split: values[split] | {"classes": classes}
        for split in SPLITS
        if isinstance(values.get(split), dict) and values[split].get("dataset") == "images"
    }


def labelled_by_teacher(
    data: Data, source: TeacherSource | None, fabric: Fabric, console: Console, *, bar: bool
) -> Data:
    """Data whose validation images, if they have no labels, have those that the teacher gives them.

    Raises:
        UserError: the teacher has other classes than the data.
    """
    if data.val.unlabelled_index is None:
        return data
    if source is None or source.info.num_classes != len(data.val.classes):
        found = "there is no teacher" if source is None else f"the teacher has {source.info.num_classes} classes"
        raise UserError(
            f"the validation images have no labels, and {found}; expected one of the {len(data.val.classes)} classes "
            "of the data, whose labels the student is compared with"
        )
    console.out(
        "note: the validation images have no labels, so that scores are agreement with the teacher, not accuracy",
        highlight=False,
    )
    teacher = source.load().to(fabric.device)
    val = TeacherLabelled(data.val, data.val_for_teacher(), teacher, fabric=fabric, console=console, bar=bar)
    return replace(data, val=val)


def _classes_of(recipe: DistillRecipe) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    teacher = recipe.teacher
    if isinstance(teacher, Network):
        description = teacher.description
    else:
        folder = network_folder(str(teacher)) if isinstance(teacher, str | Path) else None
        if folder is None:
            raise UserError(
                "the images have no labels, and the teacher names no classes; name them in data.classes, in the order "
                "of the teacher's"
            )
        description = read_description(folder)
    return description.classes, description.palette
