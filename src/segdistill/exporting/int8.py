"""Quantisation to 8 bits, and what it costs in mIoU."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segdistill.data.evaluation import EvaluationLoader, EvaluationSamples, scored_parts
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Tiling
from segdistill.datasets import SegmentationDataset
from segdistill.files import environment
from segdistill.formats.agreement import File, Form
from segdistill.formats.exported import run_file
from segdistill.formats.extra import require
from segdistill.metrics.scores import Scores, percent, scores_from_confusion
from segdistill.progress import counted, tracked

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
        post_training: of a file that was quantised without the fine-tuning that ``after`` had; None if it had none.
    """

    before: Scores
    after: Scores
    equal_labels: float
    images: int
    post_training: Scores | None = None

    @property
    def loss(self) -> float:
        """Points of mIoU that are gone."""
        return self.before.miou - self.after.miou

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        stages = {"before": self.before, "post_training": self.post_training, "after": self.after}
        found = {name: scores for name, scores in stages.items() if scores is not None}
        return {
            **{f"miou_{name}": scores.miou for name, scores in found.items()},
            **{f"iou_{name}": scores.iou for name, scores in found.items()},
            "equal_labels": self.equal_labels,
            "images": self.images,
        }

    def warning(self) -> str | None:
        """What to tell of a loss that is too large, and what to try; None where it is not."""
        if self.post_training is not None and self.after.miou <= self.post_training.miou:
            return (
                f"fine-tuning brought no gain: {self.after.miou:.2f} % of mIoU after it, {self.post_training.miou:.2f} "
                "without; export without --finetune"
            )
        if self.loss <= LARGEST_LOSS:
            return None
        tuning = "" if self.post_training is not None else "fine-tuning with the teacher (--finetune 3), "
        return (
            f"int8 costs {self.loss:.2f} points of mIoU. Try {tuning}more calibration images (--calibration 500), the "
            "float32 file in bf16 on a CPU that has it, or a student without squeeze-and-excitation and hard-swish, "
            "such as smp:FPN:resnet18: their activations spread widely and lose most in 8 bits"
        )

    def table(self) -> Table:
        """IoU by class, before and after, for the terminal."""
        table = Table(title=f"IoU in % on {counted(self.images, 'validation image')}", title_justify="left")
        table.add_column("class", no_wrap=True)
        columns = {"float32": self.before, "int8": self.after}
        if self.post_training is not None:
            columns = {"float32": self.before, "int8": self.post_training, "int8 fine-tuned": self.after}
        for heading in (*columns, "change"):
            table.add_column(heading, justify="right")
        for name in self.before.iou:
            table.add_row(name, *_cells([scores.iou[name] for scores in columns.values()]))
        table.add_section()
        table.add_row("mIoU", *_cells([scores.miou for scores in columns.values()]))
        return table


@contextlib.contextmanager
def quiet_nncf() -> Iterator[Any]:
    """NNCF, if it is installed, without its reports to the terminal and over the network."""
    # It looks for a CUDA compiler, whose absence torch warns of.
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    with environment(NNCF_CI="1"):
        logger.setLevel(logging.ERROR)
        try:
            nncf = require("nncf", "int8")
            nncf.set_log_level(logging.ERROR)
            yield nncf
        finally:
            logger.setLevel(level)


def quantise(model: Any, images: Iterable[Tensor], form: Form, count: int, *, correct_bias: bool = True) -> Any:
    """The model with weights and activations of 8 bits, by NNCF's min-max ranges and fast bias correction.

    Args:
        model: an ``onnx.ModelProto`` or ``openvino.Model`` of the given form.
        images: (C, H, W) each, of the form's size where it has one; every image is a batch of its own, repeated where
            the batch is fixed.
        form: of the model.
        count: number of images.
        correct_bias: whether biases make up for what rounding moves; a network that was trained with rounding has
            learnt to by itself.
    """
    batches = [{"images": form.pack(image[None].repeat(form.batch or 1, 1, 1, 1))} for image in images]
    with quiet_nncf() as nncf, contextlib.redirect_stdout(io.StringIO()):  # its bars come whatever the log level
        # Symmetric ranges for the weights, others for activations: hard-swish goes below 0, by a little only.
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=count,
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=not correct_bias),
        )


def quantisation_cost(
    before: File, after: File, dataset: SegmentationDataset, form: Form, tiling: Tiling, console: Console
) -> QuantisationCost:
    """Runs both files on every image of a split.

    Files of a fixed size see images resized to it, and their scores are brought back to the images' own size.

    Args:
        before: the float32 file.
        after: the int8 file.
        dataset: the split.
        form: of both.
        tiling: how images go through files of any size.
        console: where the progress is shown.
    """
    classes, ignored = len(dataset.classes), dataset.ignore_index

    def both(images: Tensor) -> Tensor:
        return torch.cat([run_file(file, form, images) for file in (before, after)], dim=1)

    model = TiledModel(both, 2 * classes, tiling, form.size or dataset.resize, batch_size=form.batch)
    loader = EvaluationLoader(EvaluationSamples(dataset, tiling.window, model.resize), form.batch or 1, 0)
    counts = torch.zeros(2, classes, classes, dtype=torch.int64)
    same = 0
    with torch.inference_mode():
        for part in scored_parts(model, loader, tracked(loader, "scoring the int8 file", len(loader), console)):
            labels = [scores.max(1).indices for scores in torch.split(part.scores, classes, dim=1)]
            valid = part.labels != ignored
            for number, found in enumerate(labels):
                pairs = part.labels[valid].long() * classes + found[valid]
                counts[number] += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
            same += int((labels[0] == labels[1])[valid].sum())
    scores = [scores_from_confusion(confusion, dataset.classes) for confusion in counts]
    return QuantisationCost(scores[0], scores[1], same / scores[0].pixels, len(dataset))


def _cells(values: Sequence[float | None]) -> tuple[str, ...]:
    first, last = values[0], values[-1]
    change = "" if first is None or last is None else f"{last - first:+.2f}"
    return (*map(percent, values), change)
