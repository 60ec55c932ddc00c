"""Which positions count in a method's means over pixels, and how much: the weight of their class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, distributed, nn

from segdistill.errors import UserError
from segdistill.losses import shrink_valid, shrink_weights
from segdistill.losses._class_weights import enet_weights
from segdistill.methods.alignment import size_of
from segdistill.methods.method import TeacherOutputs, check_choice
from segdistill.networks.features import NetworkInfo

#: Whose classes weigh the pixels: the labels', the teacher's most probable ones, or none.
Balance = Literal["labels", "teacher"] | None


def check_balance(method: str, balance: Balance) -> None:
    """Raises a `UserError` unless ``balance`` is one of the three."""
    check_choice(method, "balance", balance, ("labels", "teacher", None))


def check_adjust(method: str, balance: Balance, adjust: float | None, teacher_adjust: float | None) -> None:
    """Raises a `UserError` unless ``adjust`` and ``teacher_adjust`` are 0 to 1 or None, and fit ``balance``."""
    for name, value in (("adjust", adjust), ("teacher_adjust", teacher_adjust)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"{method}: {name} is {value}, expected 0 to 1, or null")
    if adjust is not None and balance != "teacher":
        raise UserError(f"{method}: adjust is {adjust}, which needs balance: teacher")
    if teacher_adjust is not None and adjust is None:
        raise UserError(f"{method}: teacher_adjust is {teacher_adjust}, which needs adjust")


class CountedPixels:
    """The pixels of a batch that count, at any resolution.

    Args:
        valid: bool (B, H, W).
        weights: (B, H', W'), 0 where a pixel does not count; ``None`` where all count alike.
    """

    def __init__(self, valid: Tensor, weights: Tensor | None = None) -> None:
        self._valid = valid
        self._weights = weights
        self._known: dict[tuple[int, int], Tensor] = {}

    def mask(self, size: tuple[int, int]) -> Tensor:
        """Which positions count, bool (B, h, w)."""
        return shrink_valid(self._valid, size)

    def at(self, size: tuple[int, int]) -> Tensor:
        """What to give a loss as ``valid``, (B, h, w): bool, or float32 weights, 0 where a position does not count."""
        if self._weights is None:
            return self.mask(size)
        if size not in self._known:
            self._known[size] = shrink_weights(self._weights, size) * self.mask(size)
        return self._known[size]


class PixelWeights(nn.Module):
    """The positions that count, as a mask or as weights of their classes.

    A class weighs ``1 / ln(1.02 + share)``, scaled to a mean of 1 over the classes that occur, as in the balanced task
    loss (`segdistill.losses.balanced_weights`). Shares are those of all pixels seen so far in training, in all
    processes: they settle within some batches, and depend neither on the batch size nor on the crop. They are part of
    the state dict.

    Args:
        balance: ``"labels"``: a pixel has the class of its label; a valid pixel without one weighs 1. ``"teacher"``:
            the teacher's most probable class; the teacher's ``logits`` must be at hand. ``None``: all count alike.
        student: the student's classes are those of the labels.
        teacher: the teacher's classes are those of its scores.
    """

    counts: Tensor

    def __init__(self, balance: Balance, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().__init__()
        self.balance = balance
        if balance is not None:
            num_classes = student.num_classes if balance == "labels" else teacher.num_classes
            self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    def forward(self, *, valid: Tensor, labels: Tensor | None, teacher: TeacherOutputs) -> CountedPixels:
        """Which pixels of a batch count, and how much.

        Args:
            valid: pixels that count, bool (B, H, W).
            labels: class of every pixel, integer (B, H, W); only read with ``balance="labels"``.
            teacher: with ``logits``, (B, K, h, w); only read with ``balance="teacher"``.
        """
        if self.balance is None:
            return CountedPixels(valid)
        weights, classes, counted = self.class_weights(valid=valid, labels=labels, teacher=teacher)
        return CountedPixels(valid, torch.where(classes < 0, counted.float(), weights[classes.clamp(min=0)]))

    def class_weights(
        self, *, valid: Tensor, labels: Tensor | None, teacher: TeacherOutputs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of the classes once the pixels of this batch are counted too; arguments as for `forward`.

        Returns:
            The weights, float32 (K,), 0 for a class that no pixel has had so far; the class of each pixel, (B, H, W),
            -1 where it has none or does not count; and which pixels count, bool (B, H, W).
        """
        if self.balance == "labels":
            assert labels is not None, "the Distiller refuses images without labels"
            classes, counted = labels.long(), valid
        else:
            classes, counted = teacher["logits"].argmax(dim=1), shrink_valid(valid, size_of(teacher["logits"]))
        known = counted & (classes >= 0) & (classes < len(self.counts))
        classes = torch.where(known, classes, -1)
        counts = self.counts + self._count(classes)
        if self.training:
            self.counts = counts
        return enet_weights(counts.float()), classes, counted

    def _count(self, classes: Tensor) -> Tensor:
        """Pixels of each class, in all processes; those of class -1 are left out."""
        number = len(self.counts)
        # Unlike `bincount`, it does not make the host wait for an accelerator.
        counts = torch.histc(classes.float(), bins=number, min=-0.5, max=number - 0.5).long()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        return counts
