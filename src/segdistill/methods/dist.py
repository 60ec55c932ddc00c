"""DIST: how the class probabilities of a pixel, and those of a class over all pixels, correlate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segdistill.losses import class_correlation, position_correlation, shrink_valid
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.gathering import gather_batch
from segdistill.methods.method import (
    Method,
    TeacherOutputs,
    check_choice,
    check_not_negative,
    check_positive,
    check_several_classes,
)
from segdistill.networks.features import Features, NetworkInfo


class DIST(Method):
    """Huang et al., *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022 (arXiv 2205.10536).

    ``classes``: 1 - Pearson correlation of student's and teacher's class probabilities at each pixel (eq. 9), mean over
    valid pixels. ``positions``: 1 - Pearson correlation of the two probability maps of each class (eq. 10), over the
    valid pixels of an image, mean over classes and images. A correlation asks for equal order and proportions, not for
    equal values, so that a much stronger teacher is not too much to ask. On the logits before up-sampling; the
    teacher's are resized bilinearly to the student's size.

    The authors' code lets ``positions`` run over all pixels of a process's batch at once, so that its value depends on
    batch size and number of processes. ``across="batch"`` is that, over the batch of all processes. Their weights of 1
    and 1 at a temperature of 1 carry over; T^2 is inside here.

    Args:
        classes: beta, weight of the correlation over classes; 0 leaves it out.
        positions: gamma, weight of the correlation over positions; 0 leaves it out.
        temperature: T, above 0.
        across: ``"image"`` or ``"batch"``: what the positions of a correlation are taken from.
        balance: ``"labels"`` or ``"teacher"`` to weigh the pixels of ``classes`` by their class; see `PixelWeights`.
    """

    family = "logit"
    paper = "Huang, NeurIPS, arXiv 2205.10536"
    year = 2022
    cost = 1.001
    needs_logits = True

    def __init__(
        self,
        *,
        classes: float = 1.0,
        positions: float = 1.0,
        temperature: float = 1.0,
        across: Literal["image", "batch"] = "image",
        balance: Balance = None,
    ) -> None:
        super().__init__()
        check_not_negative("dist", classes=classes, positions=positions)
        check_positive("dist", temperature=temperature)
        check_choice("dist", "across", across, ("image", "batch"))
        check_balance("dist", balance)
        self.classes = classes
        self.positions = positions
        self.temperature = temperature
        self.across = across
        self.balance = balance
        self.needs_labels = balance == "labels"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        check_several_classes(self, student, teacher)
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        x = student.logits
        size = size_of(x)
        t = resize(teacher["logits"], size)
        terms: dict[str, Tensor] = {}
        if self.classes:
            counted = self.pixels(valid=valid, labels=labels, teacher=teacher).at(size)
            loss = class_correlation(student=x, teacher=t, temperature=self.temperature, valid=counted)
            terms["classes"] = self.classes * loss
        if self.positions:
            inside = shrink_valid(valid, size)
            if self.across == "batch":
                x, t, inside = gather_batch(x), gather_batch(t), gather_batch(inside.to(torch.uint8)).bool()
            loss = position_correlation(
                student=x, teacher=t, temperature=self.temperature, across=self.across, valid=inside
            )
            terms["positions"] = self.positions * loss
        return terms
