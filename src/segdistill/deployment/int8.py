"""Post-training quantisation to 8 bits, and what it costs in mIoU."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from segdistill.data.loading import evaluation_loader
from segdistill.datasets import SegmentationDataset
from segdistill.deployment.agreement import File, Form
from segdistill.deployment.extra import require
from segdistill.deployment.sample_images import at_size
from segdistill.metrics.scores import Scores, percent, scores_from_confusion

CALIBRATION_IMAGES = 128
"""Images of the train split from which the ranges of all activations are taken."""

LARGEST_LOSS = 1.0
"""Points of mIoU beyond which the user is warned."""


@dataclass(frozen=True)
class QuantisationCost:
    """The scores of a file before and after quantisation, on the same images.

    Attributes:
        before: of the float32 file.
        after: of the int8 file.
        equal_labels: share of the valid pixels on which both say the same, 0 to 1.
        images: number of validation images, or windows of them.
    """

    before: Scores
    after: Scores
    equal_labels: float
    images: int

    @property
    def loss(self) -> float:
        """Points of mIoU that are gone."""
        return self.before.miou - self.after.miou

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return {
            "miou_before": self.before.miou,
            "miou_after": self.after.miou,
            "iou_before": self.before.iou,
            "iou_after": self.after.iou,
            "equal_labels": self.equal_labels,
            "images": self.images,
        }

    def warning(self) -> str | None:
        """What to tell of a loss that is too large, and what to try; None where it is not."""
        if self.loss <= LARGEST_LOSS:
            return None
        return (
            f"int8 costs {self.loss:.2f} points of mIoU. Try more calibration images (--calibration 500), the float32 "
            "file in bf16 on a CPU that has it, or a student without squeeze-and-excitation and hard-swish, such as "
            "smp:FPN:resnet18: their activations spread widely and lose most in 8 bits"
        )

    def table(self) -> Table:
        """IoU by class, before and after, for the terminal."""
        table = Table(title=f"int8 on {self.images} validation images", title_justify="left")
        table.add_column("class", no_wrap=True)
        for heading in ("float32", "int8", "change"):
            table.add_column(heading, justify="right")
        for name, before in self.before.iou.items():
            table.add_row(name, *_cells(before, self.after.iou[name]))
        table.add_section()
        table.add_row("mIoU", *_cells(self.before.miou, self.after.miou))
        return table


def quantise(model: Any, images: Iterable[Tensor], form: Form, count: int) -> Any:
    """The model with weights and activations of 8 bits, by NNCF's min-max ranges and fast bias correction.

    Args:
        model: an ``onnx.ModelProto`` or ``openvino.Model`` of the given form.
        images: (C, H, W) each, of the form's size where it has one; every image is a batch of its own, repeated where
            the batch is fixed.
        form: of the model.
        count: number of images.
    """
    # NNCF would report its use over the network; so it does not.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = require("nncf", "int8")
    nncf.set_log_level(logging.ERROR)
    batches = [{"images": form.pack(image[None].repeat(form.batch or 1, 1, 1, 1))} for image in images]
    with contextlib.redirect_stdout(io.StringIO()):  # its bars come whatever the log level
        # Symmetric ranges for the weights, others for activations: hard-swish goes below 0, by a little only.
        return nncf.quantize(model, nncf.Dataset(batches), preset=nncf.QuantizationPreset.MIXED, subset_size=count)


def quantisation_cost(
    before: File, after: File, dataset: SegmentationDataset, form: Form, *, progress: bool = False
) -> QuantisationCost:
    """Runs both files on every image of a split.

    Files of a fixed size see images, and labels with them, resized to it: the scores are those at that size.

    Args:
        before: the float32 file.
        after: the int8 file.
        dataset: the split.
        form: of both.
        progress: whether there is a bar.
    """
    classes, ignored = len(dataset.classes), dataset.ignore_index
    counts = torch.zeros(2, classes, classes, dtype=torch.int64)
    same = images_seen = 0
    loader = evaluation_loader(dataset, 1, 0)
    for images, labels in track(
        loader, "int8 on the validation images", console=Console(stderr=True), transient=True, disable=not progress
    ):
        image, truth = at_size(images[0], form.size), _labels_at_size(labels[0], form.size)
        packed = form.pack(image[None].repeat(form.batch or 1, 1, 1, 1))
        predictions = [form.labels(np.asarray(file(packed)))[0] for file in (before, after)]
        valid = truth != ignored
        for number, prediction in enumerate(predictions):
            pairs = truth[valid] * classes + prediction[valid]
            counts[number] += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        same += int((predictions[0] == predictions[1])[valid].sum())
        images_seen += 1
    scores = [scores_from_confusion(confusion, dataset.classes) for confusion in counts]
    return QuantisationCost(scores[0], scores[1], same / scores[0].pixels, images_seen)


def _labels_at_size(labels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """A label map (H, W) brought to ``size`` by the nearest label."""
    if size is None or labels.shape == size:
        return labels
    # In float32 every label up to 255 is exact.
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()


def _cells(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = "" if before is None or after is None else f"{after - before:+.2f}"
    return percent(before), percent(after), change
