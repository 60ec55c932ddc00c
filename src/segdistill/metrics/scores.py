"""mIoU, per-class IoU, pixel accuracy and mean F1 from a data set's total confusion counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, distributed, nn

from segdistill.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of a network on a split, in percent, from counts summed over all its pixels.

    A class that occurs neither in the labels nor in the predictions has no score (None) and is left out of means.

    Attributes:
        miou: mean over classes of IoU = TP / (TP + FP + FN).
        pixel_accuracy: share of valid pixels with the right class.
        mean_f1: mean over classes of F1 = 2 TP / (2 TP + FP + FN), the aerial convention.
        iou: IoU of each class by name.
        f1: F1 of each class by name.
        pixels: number of valid pixels, those without the ignore label.
    """

    miou: float
    pixel_accuracy: float
    mean_f1: float
    iou: dict[str, float | None]
    f1: dict[str, float | None]
    pixels: int

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)


def scores_from_confusion(confusion: Tensor, classes: Sequence[str]) -> Scores:
    """Scores from a confusion matrix.

    Args:
        confusion: integer (K, K); row = true class, column = predicted class, in pixels.
        classes: the K class names.

    Raises:
        UserError: if sizes disagree or no pixel was counted.

    Example:
        >>> scores = scores_from_confusion(torch.tensor([[6, 2], [1, 1]]), ["road", "car"])
        >>> round(scores.miou, 1), scores.pixel_accuracy
        (45.8, 70.0)
    """
    if confusion.shape != (len(classes), len(classes)):
        raise UserError(f"a confusion matrix of shape {tuple(confusion.shape)} does not fit {len(classes)} classes")
    counts = confusion.to("cpu", torch.float64)
    total = float(counts.sum())
    if total == 0:
        raise UserError("no valid pixel was counted: every label is the ignore label")
    hits = counts.diagonal()
    either = counts.sum(0) + counts.sum(1)  # = 2 TP + FP + FN
    seen = either > 0
    # 0 / 0 is NaN: a class that is not there.
    iou, f1 = 100 * hits / (either - hits), 200 * hits / either
    return Scores(
        miou=float(iou[seen].mean()),
        pixel_accuracy=100 * float(hits.sum()) / total,
        mean_f1=float(f1[seen].mean()),
        iou=_by_class(iou, seen, classes),
        f1=_by_class(f1, seen, classes),
        pixels=int(total),
    )


def _by_class(values: Tensor, seen: Tensor, classes: Sequence[str]) -> dict[str, float | None]:
    return {name: float(values[i]) if bool(seen[i]) else None for i, name in enumerate(classes)}


def percent(value: float | None) -> str:
    """A score as a text for people."""
    return "absent" if value is None else f"{value:.2f}"


class ConfusionCounts(nn.Module):
    """Confusion counts of a split, summed batch by batch on the network's device and over processes.

    torchmetrics has these counts too; to import it takes longer than to import torch, in each process that trains.
    """

    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.register_buffer("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), persistent=False)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: logits (B, K, H, W), labels integer (B, H, W), 0 to K - 1 or the ignore label."""
        predicted = logits.max(1).indices  # on a CPU argmax over this dimension takes five times as long
        squares, labels = self.num_classes**2, labels.long()
        cells = torch.where(labels == self.ignore_index, squares, labels * self.num_classes + predicted)
        found = torch.bincount(cells.flatten(), minlength=squares)[:squares]
        self.counts += found.view_as(self.counts)

    def confusion(self) -> Tensor:
        """The counts so far of all processes together, int64 (K, K); row = true class."""
        counts = self.counts.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        return counts

    def reset(self) -> None:
        """Forgets all counts."""
        self.counts.zero_()
