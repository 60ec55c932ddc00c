"""LSKD: the teacher's class probabilities, pixel by pixel, after the scores of both networks were standardised."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import standardised_kl
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.method import (
    Method,
    TeacherOutputs,
    check_not_negative,
    check_positive,
    check_several_classes,
)
from segdistill.networks.features import Features, NetworkInfo


class LSKD(Method):
    """Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024 (arXiv 2403.01427), for every pixel.

    ``T^2 KL(softmax(z'_t / T) || softmax(z'_x / T))`` with scores z' of mean 0 and variance 1 over the classes of a
    pixel: the student learns the order and the proportions of the teacher's scores, not their size, which a small
    network of another family may not reach. Mean over valid pixels, on the logits before up-sampling; the teacher's are
    resized bilinearly to the student's size.

    The authors' code divides the sum over samples by their number, times T^2, as here: their weight of 9 and
    temperature of 2 carry over, and are the defaults.

    Args:
        weight: weight of the term.
        temperature: T, above 0.
        balance: ``"labels"`` or ``"teacher"`` to weigh pixels by their class; see `PixelWeights`.
    """

    family = "logit"
    paper = "Sun, CVPR, arXiv 2403.01427"
    year = 2024
    cost = 1.001
    needs_logits = True

    def __init__(self, *, weight: float = 9.0, temperature: float = 2.0, balance: Balance = None) -> None:
        super().__init__()
        check_not_negative("lskd", weight=weight)
        check_positive("lskd", temperature=temperature)
        check_balance("lskd", balance)
        self.weight = weight
        self.temperature = temperature
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
        size = size_of(student.logits)
        loss = standardised_kl(
            student=student.logits,
            teacher=resize(teacher["logits"], size),
            temperature=self.temperature,
            valid=self.pixels(valid=valid, labels=labels, teacher=teacher).at(size),
        )
        return {"logits": self.weight * loss}
